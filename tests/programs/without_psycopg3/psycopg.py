raise ImportError("psycopg 3 is hidden from this program")
