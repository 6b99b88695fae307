"""Training: recipes, the runner that follows them, and the retrain job from a snapshot to a rollout."""
