"""What a green connection of psycopg2 is. Importing this package alone does not import psycopg2."""
