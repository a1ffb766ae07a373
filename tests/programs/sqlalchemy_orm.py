"""SQLAlchemy's ORM, two phases and the kinds of pools."""

import os

from patched import spawn, wait
from with_sqlalchemy import URL, connect, engine, monitor

# isort: split
import sqlalchemy
from sqlalchemy import Column, ForeignKey, Integer, MetaData, String, create_engine, exc, func, pool, select, text
from sqlalchemy.orm import Session, declarative_base, relationship, scoped_session, sessionmaker
from support.outcomes import caught

Base = declarative_base(metadata=MetaData(schema=f"orm_{os.getpid()}"))


class Parent(Base):
    __tablename__ = "parent"
    id = Column(Integer, primary_key=True)
    name = Column(String, unique=True)
    children = relationship("Child", lazy="select", order_by="Child.id")


class Child(Base):
    __tablename__ = "child"
    id = Column(Integer, primary_key=True)
    parent_id = Column(ForeignKey(Parent.id))
    n = Column(Integer)


with monitor.connect() as conn:
    conn.execute(sqlalchemy.schema.CreateSchema(Base.metadata.schema))
try:
    Base.metadata.create_all(engine)

    def family(n):
        with Session(engine) as session, session.begin():
            parent = Parent(name=f"parent {n}", children=[Child(n=k) for k in range(n)])
            session.add(parent)
            session.flush()
            try:
                with session.begin_nested():
                    session.add(Parent(name=parent.name))
            except exc.IntegrityError:
                pass
            session.add(Child(n=n, parent_id=parent.id))
        with Session(engine) as session:
            parent = session.scalars(select(Parent).where(Parent.name == f"parent {n}")).one()
            return [child.n for child in parent.children]

    tasks = [spawn(family, n) for n in range(20)]
    for n, task in enumerate(tasks):
        assert wait(task) == list(range(n + 1))

    # One session for each greenlet.
    local = scoped_session(sessionmaker(engine))

    def mine():
        session = local()
        session.scalar(select(func.pg_sleep(0.01)))
        assert local() is session
        local.remove()
        return id(session), session

    assert len({wait(task) for task in [spawn(mine) for _ in range(10)]}) == 10

    # All greenlets lock the same row.
    def count(n):
        with Session(engine) as session, session.begin():
            child = session.scalars(select(Child).order_by(Child.id).limit(1).with_for_update()).one()
            child.n += 1

    for task in [spawn(count, n) for n in range(20)]:
        wait(task)
    with Session(engine) as session:
        assert session.scalar(select(Child.n).order_by(Child.id).limit(1)) == 20

    # Insert many rows, in batches that return the server's defaults, and fetch them in parts.
    with Session(engine) as session, session.begin():
        session.add_all(Child(n=n) for n in range(3000))
        session.flush()
        rows = session.scalars(select(Child).execution_options(yield_per=100))
        assert sum(1 for _ in rows) == 3000 + 20 + sum(range(20))

    # Two phases, which the server's settings must allow.
    with Session(engine, twophase=True) as session:
        session.add(Parent(name="two phases"))
        session.commit()

    # A wait for an exhausted pool times out, and lets other greenlets run.
    small = create_engine(URL, creator=connect, pool_size=1, max_overflow=0, pool_timeout=0.2)
    with small.connect() as conn:
        task = spawn(caught, small.connect)
        assert conn.scalar(select(func.length(func.cast(func.pg_sleep(0.3), String)))) == 0
        assert isinstance(wait(task), exc.TimeoutError)

    # Several greenlets are the first to use an engine, whose dialect then asks for the server's version.
    for kind in pool.NullPool, pool.SingletonThreadPool, pool.QueuePool:
        fresh = create_engine(URL, creator=connect, poolclass=kind)

        def once(fresh=fresh):
            with fresh.connect() as conn:
                return conn.scalar(text("SELECT pg_backend_pid() + 0 * length(pg_sleep(0.05)::text)"))

        assert len({wait(task) for task in [spawn(once) for _ in range(3)]}) == 3
        fresh.dispose()
finally:
    with monitor.connect() as conn:
        conn.execute(sqlalchemy.schema.DropSchema(Base.metadata.schema, cascade=True))
