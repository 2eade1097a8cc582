"""A listener that closes: who has connected is answered, who comes later is refused, nobody is cut off."""

import socket
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from lrp_compiler.serving.listening import listening, turn_away


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can filter what a socket takes")
def test_who_comes_when_a_listener_is_about_to_close_is_refused_and_not_cut_off() -> None:
    with listening("127.0.0.1", 0) as listener, ThreadPoolExecutor(1) as pool:
        address = listener.getsockname()
        early = socket.create_connection(address, 5)
        turn_away(listener)
        late = pool.submit(socket.create_connection, address, 5)
        time.sleep(0.2)
        accepted, _ = listener.accept()
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.accept()
        listener.close()
        with early, accepted:
            early.sendall(b"asked")
            assert accepted.recv(5) == b"asked"
            accepted.sendall(b"answered")
            assert early.recv(8) == b"answered"
        with pytest.raises(ConnectionRefusedError):
            late.result()
