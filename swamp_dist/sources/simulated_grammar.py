"""Cooking-like sentences from a small seeded grammar, for a simulated corpus without any annotation file."""

from __future__ import annotations

from collections.abc import Iterator

from swamp_dist.sources.simulated_draws import Draws, draws, pick

TOPICS = 24
INGREDIENTS_A_TOPIC = 14
ACTIONS_A_TOPIC = 18


def _words(text: str) -> list[str]:
    return text.split()


ACTIONS = _words(
    """add bake baste beat blanch blend boil braise break brown brush chill chop coat combine cook cover
crack crush cut deglaze dice dip drain drizzle dust fill flip fold fry garnish grate grill grind heat knead
layer mash marinate melt mince mix peel pound pour press roast roll rub saute scoop sear season serve shred
sift simmer skewer slice soak spread sprinkle steam stir strain stuff taste toast toss trim whisk wrap"""
)
INGREDIENTS = _words(
    """almonds anchovies apples asparagus avocado bacon bananas barley basil beans beef beets bread
breadcrumbs broccoli broth butter buttermilk cabbage capers cardamom carrots cashews cauliflower celery cheese
cherries chicken chickpeas chili chives chocolate cilantro cinnamon clams cloves coconut cod coriander corn
cornstarch couscous crab cranberries cream cucumber cumin curry dates dill dough duck dumplings eggplant eggs
fennel figs fish flour garlic ginger gravy ham hazelnuts herbs honey horseradish ketchup kimchi lamb leeks
lemon lentils lettuce lime lobster mango mayonnaise milk mint miso molasses mushrooms mussels mustard noodles
nutmeg oats octopus oil okra olives onions orange oregano oysters paprika parmesan parsley pasta peaches
peanuts pears peas pecans pepper peppers pesto pickles pineapple pistachios pork potatoes prawns pumpkin
quinoa radish raisins rice rosemary saffron sage salmon salsa salt sauce sausage scallions scallops seaweed
semolina sesame shallots shrimp spinach squash squid starch steak stock strawberries sugar syrup tahini
tarragon thyme tofu tomatoes tortillas tuna turkey turmeric turnips vanilla veal vinegar walnuts wasabi
water wine wonton yeast yogurt zucchini"""
)
PLACES = _words(
    """basin blender board bowl casserole colander dish foil fridge griddle grill jar kettle ladle mixer
mold mortar oven pan paper parchment plate pot processor rack sheet sieve skillet steamer tray wok"""
)
MANNERS = _words(
    """again briefly carefully completely crispy diagonally evenly finely firmly gently golden halfway
lightly overnight quickly roughly separately slowly smooth softened tender thick thinly thoroughly together
twice vigorously well"""
)
FUNCTION_WORDS = frozenset(
    _words("""a about after all an and are as at be been but by do for from had has have he her his how i
if in into is it its just like my no not now of off on one or our out over she so some that the their them
then there these they this to too two until up very was we what when while will with you your""")
)
"""Words that carry no content: nothing of a picture depends on them, and narrations come without them."""


def topic_sentences(seed: int, count: int) -> Iterator[tuple[str, str]]:
    """`count` pairs (topic, sentence), every sentence once. A topic prefers its own ingredients and
    actions."""
    random = draws(seed, "grammar")
    topics = [
        (pick(random, INGREDIENTS, INGREDIENTS_A_TOPIC), pick(random, ACTIONS, ACTIONS_A_TOPIC))
        for _ in range(TOPICS)
    ]
    seen: set[str] = set()
    while len(seen) < count:
        topic = int(random.integers(TOPICS))
        text = _sentence(*topics[topic], random)
        if text not in seen:
            seen.add(text)
            yield f"{100 + topic}", text


def _sentence(ingredients: list[str], actions: list[str], random: Draws) -> str:
    """For example: "chop the onions and garlic finely on the board"."""
    words = [_one(actions if random.random() < 0.8 else ACTIONS, random)]
    for i in range(1 + int(random.integers(3))):
        words += ["and" if i else "the", _one(ingredients if random.random() < 0.8 else INGREDIENTS, random)]
    if random.random() < 0.4:
        words.append(_one(MANNERS, random))
    if random.random() < 0.6:
        words += [_one(["in", "on", "into", "with"], random), "the", _one(PLACES, random)]
    return " ".join(words)


def _one(choices: list[str], random: Draws) -> str:
    return choices[int(random.integers(len(choices)))]
