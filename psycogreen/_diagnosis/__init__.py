"""Whether psycopg2 is green, and what stands in the way: a psycopg2 that blocks gives the right answers, too."""
