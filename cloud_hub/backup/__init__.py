"""`cloud-hub backup` and `cloud-hub restore`: a hub's state as one folder, taken while the hub runs.

manifest   what a backup holds, with sizes and hashes; writing and checking it
database   a consistent copy of the database, as a SQLite file whatever the hub runs on; and back
contents   which objects the database names
sealed     the hub's keys under a passphrase
make       `backup`: all of it into a folder that appears when it is whole
checking   what a restore looks at before it changes anything
placing    how objects, database and keys get their place
restore    `restore`: checked first, then objects, keys, database, and `hub.toml` last
"""
