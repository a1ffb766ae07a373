"""What a green psycopg 3 is."""
