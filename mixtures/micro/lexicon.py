"""Words that micro tasks are made of.

Few and common on purpose: a vocabulary of about a thousand pieces holds each as one or two pieces,
so that a tiny model meets every word often.
"""

ANIMALS = (
    "cat dog horse cow pig sheep goat duck hen fox wolf bear lion tiger mouse rabbit frog fish "
    "bird bee ant owl crow deer seal whale"
).split()
FRUITS = "apple pear plum peach cherry grape lemon melon fig mango berry banana orange lime".split()
TOOLS = (
    "hammer saw drill nail rope knife spoon fork brush broom needle wrench ladder shovel".split()
)
CLOTHES = "hat coat shirt sock shoe glove scarf belt dress skirt boot cap vest tie".split()
VEHICLES = "car bus train bike boat ship plane truck tram van sled cart canoe taxi".split()
FURNITURE = "chair table bed desk shelf lamp sofa stool bench mirror rug drawer".split()
COLOURS = "red blue green yellow black white brown pink grey purple".split()
SHAPES = "circle square star triangle cross heart moon cube".split()
PLACES = (
    "garden kitchen park school market station harbour forest beach library office barn cellar "
    "attic"
).split()
NAMES = (
    "Anna Ben Clara David Emma Felix Grace Henry Iris Jack Kate Leo Maya Noah Olga Paul Rosa Sam "
    "Tara Victor"
).split()
MATERIALS = "wood stone glass paper iron clay silk wool".split()
WEATHER = "rain snow wind fog sun storm hail frost".split()
ADJECTIVES = "big small old new fast slow warm cold heavy light clean quiet".split()
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
MONTHS = (
    "January February March April May June July August September October November December"
).split()
NUMBER_WORDS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen twenty"
).split()
LETTERS = "a b c d e f g h i j k l m n o p q r s t u v w x y z".split()

CATEGORIES = {
    "animal": ANIMALS,
    "fruit": FRUITS,
    "tool": TOOLS,
    "piece of clothing": CLOTHES,
    "vehicle": VEHICLES,
    "piece of furniture": FURNITURE,
    "colour": COLOURS,
}
# Things one can hold, count or buy.
OBJECTS = [*FRUITS, *TOOLS, *CLOTHES]
WORDS = [*ANIMALS, *FRUITS, *TOOLS, *CLOTHES, *VEHICLES, *FURNITURE, *COLOURS, *PLACES, *MATERIALS]
