"""Finding out whether psycopg2 is green, and why not. A psycopg2 that blocks gives the right answers, too."""
