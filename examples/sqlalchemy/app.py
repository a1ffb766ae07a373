"""SQLAlchemy, its ORM and its pool, without code for greenlets.

libpq's variables (PGHOST, PGUSER, PGDATABASE...) name the server. The driver is psycopg2,
or psycopg 3 with DATABASE_URL=postgresql+psycopg:// in the environment.
"""

import os

from sqlalchemy import ForeignKey, create_engine, func, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship

# With the driver's name, because plain "postgresql://" means psycopg2 before SQLAlchemy 2.1 and psycopg 3 since.
# A greenlet waits for the pool while all five connections are in use.
engine = create_engine(os.environ.get("DATABASE_URL", "postgresql+psycopg2://"), pool_size=5, max_overflow=0)


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "example_order"

    id: Mapped[int] = mapped_column(primary_key=True)
    items: Mapped[list["Item"]] = relationship(back_populates="order", cascade="all, delete-orphan")


class Item(Base):
    __tablename__ = "example_item"

    id: Mapped[int] = mapped_column(primary_key=True)
    order_id: Mapped[int] = mapped_column(ForeignKey(Order.id))
    price: Mapped[int]
    order: Mapped[Order] = relationship(back_populates="items")


def work(n: int) -> int:
    """Store an order of three items; return its cost."""
    with Session(engine) as session, session.begin():
        order = Order(items=[Item(price=price * n) for price in (1, 2, 3)])
        session.add(order)
        session.flush()
        session.execute(select(func.pg_sleep(0.1)))
        return session.scalar(select(func.sum(Item.price)).where(Item.order == order))
