"""A command of this package in a shell of the tests, forked from the server of `forking.py` in place of a Python started
anew: `python -S -E -P forked.py SOCKET WORDS…`. Its streams, signals and exit code are those of the forked process.

It imports next to nothing, so that it takes 0.02 s. Where the server does not take the command, Python runs it."""

import os
import signal
import sys
from _socket import AF_UNIX, SCM_RIGHTS, SOCK_STREAM, SOL_SOCKET, socket
from array import array
from marshal import dumps


def _main() -> int:
    words, stream, handles = sys.argv[2:], socket(AF_UNIX, SOCK_STREAM), array("i")
    numbers = []
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:  # closed here, and so there
            continue
        if number != stream.fileno():
            numbers.append(number)
            handles.append(number)
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    text = dumps((words, os.getcwd(), dict(os.environ), numbers))
    stream.connect(sys.argv[1])
    stream.sendmsg([len(text).to_bytes(8, "little")], [(SOL_SOCKET, SCM_RIGHTS, handles)])
    sent = 0
    while sent < len(text):
        sent += stream.send(text[sent:])
    child = int.from_bytes(stream.recv(8), "little")
    if child == 0:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        os.execv(sys.executable, [sys.executable, *words])
    for number in SIGNALS:
        signal.signal(number, lambda number, _: os.kill(child, number))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    status = int.from_bytes(stream.recv(8), "little")
    if os.WIFSIGNALED(status):
        signal.signal(os.WTERMSIG(status), signal.SIG_DFL)
        os.kill(os.getpid(), os.WTERMSIG(status))
    return os.waitstatus_to_exitcode(status)


SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

if __name__ == "__main__":
    sys.exit(_main())
