"""gunicorn with gevent workers, in which psycopg2 is green."""

worker_class = "gevent"


def post_fork(server, worker):
    import psycogreen
    from psycogreen.gevent import make_psycopg_green

    make_psycopg_green()
    worker.log.info("Worker %d: psycopg2 is green (%s loop)", worker.pid, psycogreen.implementation)
