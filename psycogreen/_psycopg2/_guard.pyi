from psycogreen._psycopg2._guard_py import Guarded as Guarded
from psycogreen._psycopg2._guard_py import check_free as check_free
from psycogreen._psycopg2._guard_py import exclusive as exclusive
from psycogreen._psycopg2._guard_py import holder as holder
