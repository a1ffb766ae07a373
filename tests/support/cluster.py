"""The system's PostgreSQL in a directory of its own, started and stopped at will."""

import os
import pwd
import subprocess
from pathlib import Path

from support.postgres import system_server


class Cluster:
    """A server whose data lie in *data*; the user that runs it must be allowed to enter the directories above."""

    def __init__(self, data: Path) -> None:
        programs = system_server()
        assert programs, "no PostgreSQL server in /usr/lib/postgresql or on the PATH"
        self.programs = programs
        self.data = data
        #: What, before a command, runs it as the user postgres: PostgreSQL refuses to run as root.
        self.as_postgres: list[str] = []
        if os.geteuid() == 0:
            account = pwd.getpwnam("postgres")
            os.chown(data.parent, account.pw_uid, account.pw_gid)
            self.as_postgres = ["setpriv", f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--clear-groups"]

    def run(self, program: str, *arguments: object) -> None:
        """Run one of PostgreSQL's programs."""
        command = [*self.as_postgres, self.programs / program, *map(str, arguments)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=self.data.parent)

    def create(self) -> None:
        """Make the files of a server that trusts everybody."""
        self.run("initdb", "-D", self.data, "-U", "postgres", "--auth=trust", "--encoding=utf8", "--no-sync")

    def configure(self, **settings: object) -> None:
        """Set the parameters of postgresql.conf."""
        with open(self.data / "postgresql.auto.conf", "a") as conf:
            conf.writelines(f"{name} = '{value}'\n" for name, value in {"fsync": "off", **settings}.items())

    def start(self) -> None:
        """Start the server; return when it takes connections."""
        self._pg_ctl("start")

    def stop(self) -> None:
        """Stop it at once, as a crash would."""
        self._pg_ctl("-m", "immediate", "stop")

    def _pg_ctl(self, *arguments: str) -> None:
        self.run("pg_ctl", "-D", self.data, "-w", "-l", self.data.with_suffix(".log"), *arguments)

    def processes(self) -> list[int]:
        """Return the process ids of the server, the postmaster first; none while it is down."""
        try:
            postmaster = int((self.data / "postmaster.pid").read_text().split()[0])
            children = Path(f"/proc/{postmaster}/task/{postmaster}/children").read_text()
        except (OSError, IndexError):
            return []
        return [postmaster, *map(int, children.split())]
