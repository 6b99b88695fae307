"""The fleet: the contract between hub and devices, the rollout rules, and the operator's command."""
