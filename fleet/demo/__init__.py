"""`fleet demo`: the whole loop on one machine, as a script over the public commands.

It starts real processes (hub with its worker, three agents), drives traffic through the agents' own API, and
checks what Edgeloop promises while releases come, fail and go, inputs drift, and processes are killed.

    main        the acts in order, readable from top to bottom
    quick       `--quick`: a first look that trains nothing, with releases that come along
    acts        what happens in each act
    story       what the acts measure and hand on
    workshop    where everything lives and how the commands are called
    processes   children that are started, killed and restarted
    driver      the application on each device, the annotator, and the exam
    promises    pure: which promises the measured numbers break
    report      the report file and the table
"""
