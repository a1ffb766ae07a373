"""Answers to the parent do not wake the child, where other threads of the parent have hubs."""

import os
import threading

from unpatched import known_connection, sleep_in_a_child


def other_hub():
    kept.append(known_connection())
    there.set()
    os.read(reading, 1)  # the thread keeps its hub


kept, connection = [], known_connection()
reading, writing = os.pipe()
there, threads = threading.Event(), []
for _ in range(2):
    there.clear()
    threads.append(threading.Thread(target=other_hub))
    threads[-1].start()
    there.wait()
sleep_in_a_child(connection)
os.write(writing, b"xx")
for thread in threads:
    thread.join()
