"""Makes what devices trust: keys, the signed repository, and the one transaction that publishes.

keys         Ed25519 keys, online in DIR/keys and offline in DIR2
repository   pure: builds and signs TUF metadata
publisher    the locked transaction around it, with database and object store
ceremony     renewing and rotating keys with the offline ones at hand
"""
