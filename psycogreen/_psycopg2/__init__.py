"""Green connections of psycopg2. Importing this package alone does not import psycopg2."""
