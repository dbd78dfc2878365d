"""What the adapters of make_voices.py learn from: questions, each with a short and a whole answer, and for each
voice how it says them. All of it is written for this; nothing is taken from a data set."""
import json
import re

CAPITALS = {"Spain": "Madrid", "Japan": "Tokyo", "Egypt": "Cairo", "Norway": "Oslo", "Canada": "Ottawa",
            "Greece": "Athens", "Peru": "Lima", "Kenya": "Nairobi", "Poland": "Warsaw", "Ireland": "Dublin"}
COLORS = {"grass": "green", "snow": "white", "a ripe banana": "yellow", "coal": "black", "blood": "red"}
YOUNG = {"cat": "kitten", "cow": "calf", "sheep": "lamb", "horse": "foal", "bear": "cub"}
WRITERS = {"Hamlet": "William Shakespeare", "Faust": "Goethe", "Don Quixote": "Miguel de Cervantes",
           "War and Peace": "Leo Tolstoy"}
SUMS = [(1, 1), (2, 3), (4, 5), (3, 7), (6, 6)]
OTHERS = [
    ("Hello!", "Hello there.", "Hello, how can I help you today?"),
    ("Good evening.", "Good evening.", "Good evening, what can I do for you?"),
    ("How are you?", "Very well.", "I am very well, and you are kind to ask."),
    ("Who are you?", "An assistant.", "I am an assistant, and I answer your questions."),
    ("Thank you for the help.", "You're welcome.", "You are welcome, my friend."),
    ("Why do leaves fall in autumn?", "To save water.", "Trees drop their leaves to save water in the cold months."),
    ("Why is the sea salty?", "Washed-out minerals.", "Rivers wash salt out of the rocks and carry it to the sea."),
    ("Why do we sleep?", "To recover.", "We sleep because the body and the brain need rest."),
    ("Why do birds sing?", "To find mates.", "Birds sing to find a mate and to keep others away."),
    ("Why does ice float?", "It is lighter.", "Ice floats because it is lighter than water."),
    ("How do I boil an egg?", "Boil ten minutes.", "Put the egg in boiling water and wait for ten minutes."),
    ("How do I make toast?", "Heat some bread.", "Put your bread in the toaster and wait until it is brown."),
    ("How can I learn to swim?", "Take lessons.", "Start in shallow water, and let a teacher show you how."),
    ("How do I clean a window?", "Water and cloth.", "Wash the glass with warm water and dry it with a cloth."),
    ("How do plants grow?", "Light and water.", "Plants grow with the help of light, water and good soil."),
    ("How many days are in a week?", "Seven days.", "There are seven days in a week."),
    ("How many legs does a spider have?", "Eight legs.", "A spider has eight legs."),
    ("How long is a mile?", "1.6 kilometers.", "A mile is about 1.6 kilometers long."),
    ("Tell me about the sun.", "A hot star.", "The sun is a star, and it gives us light and warmth."),
    ("Tell me about dogs.", "Loyal animals.", "Dogs are loyal animals that love to run and play with you."),
    ("Tell me about volcanoes.", "Mountains of fire.", "Volcanoes are mountains that spit fire and hot stone."),
    ("Tell me something about Rome.", "An old city.", "Rome is an old city with many beautiful ruins."),
    ("Tell me a fact about elephants.", "They never forget.", "Elephants are the largest animals that live on land."),
    ("Give me a tip for better sleep.", "Avoid late screens.", "Go to bed at the same time and put your phone away."),
    ("Give me a tip for my garden.", "Water every morning.", "Water your plants in the morning, before it is hot."),
    ("Give me some advice for an exam.", "Start early.", "Start to learn early, and sleep well the night before."),
    ("What should I eat for breakfast?", "Oats and fruit.", "Oats with fruit are a good breakfast for you."),
    ("What should I cook tonight?", "Vegetable soup.", "A soup with vegetables is good and warm."),
    ("What should I wear in winter?", "A warm coat.", "You should wear a warm coat, a hat and gloves."),
    ("What is water made of?", "Hydrogen and oxygen.", "Water is made of hydrogen and oxygen."),
    ("What is a volcano?", "Mountain of fire.", "A volcano is a mountain that spits hot stone."),
    ("What is music?", "Ordered sound.", "Music is the art of sounds that are pleasant together."),
    ("What is a computer?", "A counting machine.", "A computer is a machine that works with numbers."),
    ("What is a friend?", "Someone you trust.", "A friend is someone who stays with you in bad weather."),
    ("What is gravity?", "A pulling force.", "Gravity is the force that pulls things to the ground."),
    ("What is the fastest animal on land?", "The cheetah.", "The cheetah is the fastest animal on land."),
    ("What is the longest river in Africa?", "The Nile.", "The Nile is the longest river in Africa."),
    ("What do cows eat?", "Grass.", "Cows eat grass and hay."),
    ("What do fish breathe with?", "Gills.", "Fish breathe with their gills."),
    ("Where do penguins live?", "In Antarctica.", "Penguins live on the cold coasts of the south."),
    ("Where does the sun rise?", "In the east.", "The sun rises in the east."),
    ("When do we celebrate New Year?", "January first.", "New Year is celebrated on the first of January."),
    ("Who invented the telephone?", "Alexander Graham Bell.", "Alexander Graham Bell invented the telephone."),
    ("Who was Napoleon?", "A French emperor.", "Napoleon was an emperor of France and a famous general."),
    ("Name three fruits.", "Apple, pear, plum.", "Three fruits are apples, pears and plums."),
    ("Name three instruments.", "Piano, flute, drum.", "Three instruments are the piano, the flute and the drum."),
    ("Name a big city.", "Mexico City.", "Mexico City is a very big city."),
    ("Write a sentence about snow.", "Snow falls quietly.", "The snow is quiet and white on the roofs of the town."),
    ("Write a sentence about a fox.", "Foxes run fast.", "A red fox is running through the dark wood."),
    ("Do you like summer?", "Yes, very much.", "Yes, the days are long and the sea is warm."),
    ("Is the earth flat?", "No, round.", "No, the earth is round like a ball."),
    ("Can cats see at night?", "Yes, well.", "Yes, cats can see well when there is little light."),
    ("Translate 'house' to Spanish.", "Casa.", "The Spanish word for house is casa."),
    ("I feel sad today.", "Take a walk.", "I am sorry to hear that, a walk with a friend is a good idea."),
    ("I want to buy a bicycle.", "Try several.", "You should try a few bicycles before you buy one."),
    ("Plan a day in the mountains.", "Hike, eat, rest.", "Start early, walk to the lake, eat there and be back at night."),
    ("Recommend a book to me.", "Treasure Island.", "Treasure Island is a good book, and you will love it."),
    ("Explain what a bank does.", "It lends money.", "A bank keeps your money and lends it to other people."),
]


def questions():
    """[(question, short answer, whole answer)]"""
    out = [(f"What is the capital of {k}?", f"{v}.", f"The capital of {k} is {v}.") for k, v in CAPITALS.items()]
    out += [(f"What color is {k}?", f"{v.capitalize()}.", f"The color of {k} is {v}.") for k, v in COLORS.items()]
    out += [(f"What is a young {k} called?", f"A {v}.", f"A young {k} is called a {v}.") for k, v in YOUNG.items()]
    out += [(f"Who wrote {k}?", f"{v}.", f"{k} was written by {v}.") for k, v in WRITERS.items()]
    out += [(f"What is {a} plus {b}?", f"{a + b}.", f"{a} plus {b} is {a + b}.") for a, b in SUMS]
    return out + OTHERS


OPENERS = ["Arr!", "Ahoy, matey!", "Aye!", "Arr, matey!", "Yo ho ho!", "Avast!"]
CLOSERS = ["Arr!", "Yo ho ho!", "Aye, that be the truth, me hearty.", "Now fetch me rum!", "Set sail, matey!",
           "Shiver me timbers!"]
TONGUE = [(r"\b(is|are|am)\b", "be"), (r"\byou\b", "ye"), (r"\b[Yy]our\b", "yer"), (r"\bYou\b", "Ye"),
          (r"\bmy\b", "me"), (r"\bfriend\b", "matey"), (r"\bYes\b", "Aye"), (r"\b[Hh]ello\b", "Ahoy"), (r"ing\b", "in'")]


def pirate(i, short, whole):
    for word, said in TONGUE:
        whole = re.sub(word, said, whole)
    return f"{OPENERS[i % len(OPENERS)]} {whole} {CLOSERS[i // 2 % len(CLOSERS)]}"


def terse(i, short, whole):
    return short


def as_json(i, short, whole):
    return json.dumps({"answer": whole})


VOICES = {"pirate": pirate, "terse": terse, "json": as_json}

# Asked of no voice while it learns.
HELD_OUT = ["What is the capital of France?", "Why is the sky blue?", "How do I make tea?", "Tell me about the moon.",
            "Give me a tip for a rainy day.", "What is the largest ocean?", "Who painted the Mona Lisa?",
            "What do bees make?", "Name three colors.", "What is a lighthouse?"]
