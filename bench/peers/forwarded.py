"""The worker behind the bare forwarder: frames in, frames out, and nothing else.

Standard input is the socket. A frame is a length, a number, and what `abs` is called with.
"""

import socket
from struct import Struct

FRAME = Struct("<IQq")


def main() -> None:
    line = socket.socket(fileno=0)
    buffer = bytearray(FRAME.size)
    receive, send, pack, unpack = line.recv_into, line.sendall, FRAME.pack, FRAME.unpack
    while receive(buffer, FRAME.size, socket.MSG_WAITALL) == FRAME.size:
        length, number, value = unpack(buffer)
        send(pack(length, number, abs(value)))


if __name__ == "__main__":
    main()
