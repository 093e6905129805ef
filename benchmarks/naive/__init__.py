"""The forms that one would write first: what the library's are compared with, and checked against."""
