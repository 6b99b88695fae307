"""Pure rules of a staged rollout: cohorts, stages, evidence, the guard and the state machine. No I/O.

    stages.plan_stages      percentages -> stages
    cohorts.draw_salt       the salt whose cohorts come nearest the plan
    machine.checked_plan/start one rollout; `machine.decide` every tick
    forecast.forecast       what a rollout will take and what it lacks; `power` counts the inputs of a verdict
    calendar, schedule      hours of the week in a zone; how many devices a rate allows
    pacing, timetable       what a schedule lets happen now, and what it will take
    orders.apply            what an operator orders of a rollout
    guard.judge             healthy, harmful, or not enough evidence, by `guard_policy`, with a sentence of reason
    shadow.judge_shadow     the same of a shadow stage, before anybody is served; `shadowing` has its steps
    evidence, bets          anytime-valid e-values from counts
    facts                   what is known about the devices, counted by assignment

`Plan` and `Progress` are msgspec structs: store them as documents with `msgspec.to_builtins`, read
them back with `msgspec.convert`.
"""
