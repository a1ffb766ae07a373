"""gunicorn with eventlet workers, in which psycopg2 is green."""

worker_class = "eventlet"


def post_fork(server, worker):
    import psycogreen
    from psycogreen.eventlet import make_psycopg_green

    make_psycopg_green()
    worker.log.info("Worker %d: psycopg2 is green (%s loop)", worker.pid, psycogreen.implementation)
