"""The hub's database: tables, engine and migrations. SQLite by default, PostgreSQL by URL."""
