"""A web server on the loopback interface that takes half a second for every request.

The first line printed is its URL. It ends with its standard input.
"""

import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

SECONDS = 0.5


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        time.sleep(SECONDS)
        answer = b"done\n"
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *args: object) -> None:
        pass


if __name__ == "__main__":
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        print("http://{}:{}/".format(*server.server_address), flush=True)
        sys.stdin.read()
        server.shutdown()
