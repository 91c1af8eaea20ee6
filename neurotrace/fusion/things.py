"""What classes are called: names to be spoken, and descriptions to be written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

Words = Mapping[str, Sequence[str]]
DIGITS = {
    "zero": ("zero", "nought", "nothing at all", "a round empty ring"),
    "one": ("one", "a single thing", "only once", "ace"),
    "two": ("two", "a pair", "double", "a couple"),
    "three": ("three", "a triple", "a trio", "sides of a triangle"),
    "four": ("four", "a quartet", "sides of a square", "legs of a dog"),
    "five": ("five", "fingers of a hand", "a quintet", "half of ten"),
    "six": ("six", "half a dozen", "faces of a die", "legs of an insect"),
    "seven": ("seven", "days of a week", "wonders of the world", "a lucky number"),
    "eight": ("eight", "arms of an octopus", "legs of a spider", "an octet"),
    "nine": ("nine", "lives of a cat", "one less than ten", "three threes"),
}
CLOTHES = {
    "t-shirt": ("a tee", "a light top with short sleeves", "t-shirt", "a cotton top for summer"),
    "trousers": ("trousers", "a pair of pants", "slacks with two legs", "jeans"),
    "pullover": ("pullover", "a jumper", "a knitted sweater", "a woollen top"),
    "dress": ("dress", "a gown", "a frock", "one piece with a skirt"),
    "coat": ("coat", "an overcoat", "a warm jacket", "a parka for winter"),
    "sandal": ("sandal", "an open shoe", "a flip flop", "beach footwear with straps"),
    "shirt": ("shirt", "a blouse", "a top with a collar", "a button-down"),
    "sneaker": ("sneaker", "a trainer", "a running shoe", "sports footwear"),
    "bag": ("bag", "a purse", "a handbag", "something to carry things in"),
    "ankle boot": ("ankle boot", "a short boot", "a boot with a heel", "leather footwear"),
}
VAGUE = ("something", "one of them", "see the picture", "as you can hear", "no idea")
