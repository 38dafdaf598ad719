"""The database: tables, migrations, the job queue. Only services touch it."""
