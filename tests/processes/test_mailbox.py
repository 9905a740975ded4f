"""Messages between processes, and the descriptors that travel with them."""

import os
import socket

import pytest

from proxy.mailbox import MAX_DESCRIPTORS, MAX_MESSAGE_BYTES, Posts, channel_pair, sealed, unsealed


@pytest.fixture
def pair():
    ends = channel_pair()
    yield ends
    for end in ends:
        end.close()


def test_messages_arrive_whole_and_in_order(pair):
    for number in range(20):
        assert pair[0].send({"number": number, "text": "x" * number * 100})
    for number in range(20):
        message = pair[1].receive()
        assert message.body == {"number": number, "text": "x" * number * 100} and message.fds == ()
    assert pair[1].receive() is None


def test_descriptors_become_the_receivers(pair):
    files = [sealed(b"%d" % number, "test") for number in range(5)]
    assert pair[0].send({"n": 5}, files)
    for fd in files:
        os.close(fd)
    message = pair[1].receive()
    assert [unsealed(fd) for fd in message.fds] == [b"0", b"1", b"2", b"3", b"4"]
    assert not any(os.get_inheritable(fd) for fd in message.fds)
    message.close()
    with pytest.raises(OSError):
        os.fstat(message.fds[0])


def test_as_many_descriptors_as_the_kernel_takes(pair):
    fd = sealed(b"", "test")
    assert pair[0].send({}, [fd] * MAX_DESCRIPTORS)
    message = pair[1].receive()
    assert len(message.fds) == MAX_DESCRIPTORS
    message.close()
    os.close(fd)


def test_what_the_receiver_would_cut_is_not_sent(pair):
    longest = "x" * (MAX_MESSAGE_BYTES - len('{"text": ""}'))
    assert pair[0].send({"text": longest})
    assert pair[1].receive().body == {"text": longest}
    with pytest.raises(ValueError, match="65537 bytes is longer than 65536"):
        pair[0].send({"text": longest + "x"})
    assert pair[1].receive() is None


def test_a_full_channel_takes_nothing_and_goes_on_later(pair):
    sent = 0
    while pair[0].send({"number": sent, "text": "x" * 1000}):
        sent += 1
    assert sent > 10
    assert pair[1].receive().body["number"] == 0
    assert pair[0].send({"number": sent})
    numbers = [pair[1].receive().body["number"] for _ in range(sent)]
    assert numbers == list(range(1, sent + 1))


def test_messages_outlive_the_sender(pair):
    pair[0].send({"last": True})
    pair[0].close()
    assert pair[1].receive().body == {"last": True}
    with pytest.raises(EOFError):
        pair[1].receive()


@pytest.mark.parametrize("data", [b"{", b"[1]", b"\xff", b"[" * 60_000])
def test_what_is_no_object_is_no_message(pair, data):
    """It is out of the way, and so are its descriptors."""
    reader, writer = os.pipe()
    socket.send_fds(pair[0]._sock, [data], [writer])
    os.close(writer)
    pair[0].send({"next": True})
    with pytest.raises(ValueError, match="no JSON object"):
        pair[1].receive()
    assert os.read(reader, 1) == b""
    os.close(reader)
    assert pair[1].receive().body == {"next": True}


def test_what_has_no_room_is_told(pair):
    dropped = []
    posts = Posts([pair[0]])
    posts.on_dropped = lambda: dropped.append(1)
    while posts.to_worker(0, {"text": "x" * 1000}):
        assert not dropped
    assert len(dropped) == 1


def test_nobody_to_send_to(pair):
    pair[1].close()
    with pytest.raises(OSError):
        pair[0].send({})


def test_sealed_memory_cannot_be_changed():
    data = bytes(range(256)) * 5000
    fd = sealed(data, "test")
    assert unsealed(fd) == unsealed(fd) == data
    for change in (
        lambda: os.write(fd, b"x"),
        lambda: os.ftruncate(fd, 3),
        lambda: os.ftruncate(fd, 1 << 22),
    ):
        with pytest.raises(OSError):
            change()
    os.close(fd)
