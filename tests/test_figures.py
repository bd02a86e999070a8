"""Numbers in few characters."""

import math

import pytest

from system.figures import duration, four_digits, plain, power, three_digits


@pytest.mark.parametrize(
    ("write", "value", "text"),
    [
        (three_digits, 0.123, "0.12"),
        (three_digits, 5.678, "5.68"),
        (three_digits, 12.496, "12.5"),
        (three_digits, 950.2, "950"),
        (three_digits, 999.7, "1.00k"),
        (three_digits, 12345, "12.3k"),
        (three_digits, 1234567, "1.23M"),
        (three_digits, math.nan, "nan"),
        (three_digits, math.inf, "inf"),
        (four_digits, 1.0, "1.000"),
        (four_digits, 9.9997, "10.00"),
        (four_digits, 24.352, "24.35"),
        (four_digits, 292.34, "292.3"),
        (four_digits, 999.97, "1.00k"),
        (four_digits, 49021, "49.0k"),
        (four_digits, 3.2e34, "3e34"),
        (four_digits, math.nan, "nan"),
        (four_digits, math.inf, "inf"),
        (power, 0.00025, "2.5e-4"),
        (power, 0.0, "0.0e0"),
        (power, 1.0, "1.0e0"),
        (power, 2.5e-10, "2.5e-10"),
        (power, math.inf, "inf"),
        (plain, 0.31234, "0.312"),
        (plain, 142.3, "142"),
        (plain, 0.00123, "1.2e-3"),
        (plain, 31234.0, "3.1e4"),
        (plain, math.nan, "nan"),
        (duration, 0.0, "0.0s"),
        (duration, 4.44, "4.4s"),
        (duration, 9.96, "10s"),
        (duration, 59, "59s"),
        (duration, 60, "1.0m"),
        (duration, 45.4 * 60, "45m"),
        (duration, 3600, "1.0h"),
        (duration, 86399, "24h"),
        (duration, 3.21 * 86400, "3.2d"),
        (duration, 123 * 86400, "123d"),
        (duration, math.inf, "?"),
        (duration, math.nan, "?"),
    ],
)
def test_numbers(write, value, text):
    assert write(value) == text


def test_the_fewest_digits_of_a_power():
    assert [power(7e-4, 0), power(1e-10, 0)] == ["7e-4", "1e-10"]
