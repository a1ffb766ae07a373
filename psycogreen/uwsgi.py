import uwsgi
from psycogreen import _ugreen
from psycopg2 import extensions
def cb(conn):
    while True:
        st=conn.poll()
        if st==0: return
        if st==1: uwsgi.wait_fd_read(conn.fileno())
        elif st==2: uwsgi.wait_fd_write(conn.fileno())
        uwsgi.suspend()
def make_psycopg_green():
    _ugreen.install(bool(uwsgi.has_threads))
    extensions.set_wait_callback(cb)
