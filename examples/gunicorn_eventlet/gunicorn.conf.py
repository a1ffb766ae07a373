"""gunicorn with eventlet workers, in which psycopg2 is green."""

worker_class = "eventlet"
# The worker's module monkey-patches the master too. There the thread of the control
# socket then fails, and delays each start of a worker by two seconds.
control_socket_disable = True


def post_fork(server, worker):
    import psycogreen
    from psycogreen.eventlet import make_psycopg_green

    make_psycopg_green()
    worker.log.info("Worker %d: psycopg2 is green (%s loop)", worker.pid, psycogreen.implementation)
