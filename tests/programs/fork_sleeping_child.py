"""Answers to the parent do not wake the child."""

from unpatched import known_connection, sleep_in_a_child

connection = known_connection()
sleep_in_a_child(connection)
