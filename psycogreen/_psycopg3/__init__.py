"""Green connections of psycopg 3."""
