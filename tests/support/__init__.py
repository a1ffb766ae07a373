"""What fixtures, tests, programs and runners share: one module a subject, one of each helper."""
