"""gunicorn with gevent workers, in which psycopg2 is green."""

from gevent import monkey

# The worker does this too, but with --preload only after the application's import. The
# locks that the application creates at import would then stop the whole worker.
monkey.patch_all()

worker_class = "gevent"


def post_fork(server, worker):
    import psycogreen
    from psycogreen.gevent import make_psycopg_green

    make_psycopg_green()
    worker.log.info("Worker %d: psycopg2 is green (%s loop)", worker.pid, psycogreen.implementation)
