"""The test Redis itself keeps the promises that other tests build on."""

import redis


def test_a_redis_is_empty_and_answers(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        assert client.dbsize() == 0
        client.set("name", "value")
        assert client.get("name") == "value"


def test_nothing_is_left_of_the_test_before(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        assert client.dbsize() == 0
