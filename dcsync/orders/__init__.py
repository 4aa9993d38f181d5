"""Orders: what a command asks of the daemon that holds the mirror, over a socket in the state folder."""

from dcsync.orders.client import send
from dcsync.orders.messages import MAX_LINE, Answer, Failed, Hello, Message, Order, Progressed, Waiting, decode, encode
from dcsync.orders.place import SOCKET_NAME, Peer, connect, is_expected, listening, peer_of

__all__ = [
    "MAX_LINE",
    "SOCKET_NAME",
    "Answer",
    "Failed",
    "Hello",
    "Message",
    "Order",
    "Peer",
    "Progressed",
    "Waiting",
    "connect",
    "decode",
    "encode",
    "is_expected",
    "listening",
    "peer_of",
    "send",
]
