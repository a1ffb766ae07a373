"""The recipes for COPY in other libraries' documentation work unchanged on green connections."""

import csv
import io

import psycopg2
import pytest


@pytest.fixture
def engine(green, dsn):
    sqlalchemy = pytest.importorskip("sqlalchemy")
    engine = sqlalchemy.create_engine("postgresql+psycopg2://", creator=lambda: psycopg2.connect(dsn))
    yield engine
    engine.dispose()


@pytest.mark.filterwarnings("ignore::psycogreen.SetupWarning")
def test_a_raw_connection_of_sqlalchemy_copies(hub, engine):
    def recipe():
        connection = engine.raw_connection()
        try:
            with connection.cursor() as cursor:
                cursor.execute("CREATE TEMPORARY TABLE recipe (n int, name text)")
                cursor.copy_expert("COPY recipe FROM STDIN WITH CSV HEADER", io.StringIO("n,name\n1,one\n2,two\n"))
                out = io.StringIO()
                cursor.copy_expert("COPY (SELECT * FROM recipe ORDER BY n) TO STDOUT WITH CSV HEADER", out)
            connection.commit()
        finally:
            connection.close()
        return out.getvalue()

    assert hub.run(recipe) == "n,name\n1,one\n2,two\n"


@pytest.mark.filterwarnings("ignore::psycogreen.SetupWarning")
def test_a_session_of_sqlalchemy_copies(hub, engine):
    from sqlalchemy import text

    def recipe():
        with engine.begin() as connection:
            connection.execute(text("CREATE TEMPORARY TABLE recipe (n int)"))
            connection.connection.cursor().copy_from(io.StringIO("1\n2\n"), "recipe")
            return connection.execute(text("SELECT sum(n) FROM recipe")).scalar()

    assert hub.run(recipe) == 3


def psql_insert_copy(table, conn, keys, data_iter):
    """From pandas' user guide, "Insertion method" of DataFrame.to_sql()."""
    # gets a DBAPI connection that can provide a cursor
    dbapi_conn = conn.connection
    with dbapi_conn.cursor() as cur:
        s_buf = io.StringIO()
        writer = csv.writer(s_buf)
        writer.writerows(data_iter)
        s_buf.seek(0)

        columns = ", ".join([f'"{k}"' for k in keys])
        if table.schema:
            table_name = f"{table.schema}.{table.name}"
        else:
            table_name = table.name

        sql = f"COPY {table_name} ({columns}) FROM STDIN WITH CSV"
        cur.copy_expert(sql=sql, file=s_buf)


def test_pandas_copies(hub, engine):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"n": range(5000), "name": [f"row {n}" for n in range(5000)]})

    def recipe():
        frame.to_sql("recipe_pandas", engine, index=False, if_exists="replace", method=psql_insert_copy)
        out = io.StringIO()
        connection = engine.raw_connection()
        try:
            query = "COPY (SELECT * FROM recipe_pandas ORDER BY n) TO STDOUT WITH CSV HEADER"
            connection.cursor().copy_expert(query, out)
        finally:
            connection.close()
        out.seek(0)
        return pandas.read_csv(out)

    assert hub.run(recipe).equals(frame)
