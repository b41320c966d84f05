"""Two wordings of one question, by how they differ. Written before the guard was tuned, and for
readers, not for the guard: many of them no list of words can see through."""

from __future__ import annotations

from collections.abc import Mapping

PARAPHRASES: Mapping[str, tuple[tuple[str, str], ...]] = {
    "politeness": (
        ("How do I reset my {app} password?", "Please tell me how to reset my {app} password."),
        ("How long do I boil {number} eggs?", "Hi, how long do I boil {number} eggs, please?"),
        (
            "What is the cheapest way to get to {city}?",
            "Could you tell me what the cheapest way to get to {city} is?",
        ),
        (
            "How can I close my {account}?",
            "Hello! Would you mind telling me how I can close my {account}? Thank you!",
        ),
        ("What is {number} times {number_2}?", "What is {number} times {number_2}, please?"),
        (
            "Write a function in {program} that reverses a {structure}.",
            "Could you please write a function in {program} that reverses a {structure}?",
        ),
        (
            "What are the side effects of {drug}?",
            "Can you please tell me what the side effects of {drug} are?",
        ),
        ("What is the capital of {country}?", "Please, what is the capital of {country}?"),
        ("Is a verbal {contract} binding?", "Good morning, is a verbal {contract} binding?"),
        (
            "Explain how {illness} is treated.",
            "Would you be so kind as to explain how {illness} is treated?",
        ),
        ("Translate good night into {language}.", "Please translate good night into {language}."),
        ("Why is my {device} so slow?", "Excuse me, why is my {device} so slow? Thanks."),
        (
            "Give me a recipe for {dish}.",
            "Could you give me a recipe for {dish}? Thanks in advance!",
        ),
        ("Who was {person}?", "I would like to know who {person} was, please."),
        (
            "Do I need a visa for {country}?",
            "Sorry to bother you, but do I need a visa for {country}?",
        ),
        ("Calculate the area of a {shape}.", "Kindly calculate the area of a {shape}."),
    ),
    "question_form": (
        ("How do I install {app} on {system}?", "How can I install {app} on {system}?"),
        ("How do I make {dish} at home?", "What is the way to make {dish} at home?"),
        ("Where is {city} located?", "Do you know where {city} is located?"),
        (
            "How do I transfer {amount} dollars to my {account}?",
            "What do I need to do to transfer {amount} dollars to my {account}?",
        ),
        ("What is the area of a {shape}?", "How large is the area of a {shape}?"),
        (
            "How do I sort a {structure} in {program}?",
            "Is there a way to sort a {structure} in {program}?",
        ),
        ("What causes {illness}?", "What is the cause of {illness}?"),
        ("What is the population of {country}?", "How many people live in {country}?"),
        ("How to terminate a {contract}?", "How does one terminate a {contract}?"),
        ("When was {person} born?", "In which year was {person} born?"),
        (
            "How do I connect my {device} to {system}?",
            "Steps to connect my {device} to {system}",
        ),
        ("How much {ingredient} goes into {dish}?", "What amount of {ingredient} is in {dish}?"),
        ("Which currency is used in {country}?", "What currency does {country} use?"),
        ("How do I uninstall {app}?", "I want to know how to uninstall {app}."),
        ("Can I take {drug} before driving?", "Is it possible to take {drug} before driving?"),
        ("How do I say hello in {language}?", "Tell me how to say hello in {language}."),
    ),
    "synonym": (
        ("How do I fix a broken {device}?", "How do I repair a broken {device}?"),
        ("Where can I buy fresh {ingredient}?", "Where can I purchase fresh {ingredient}?"),
        ("How do I begin learning {language}?", "How do I start learning {language}?"),
        ("What are the biggest cities of {country}?", "What are the largest cities of {country}?"),
        ("How do I delete my {app} account?", "How do I remove my {app} account?"),
        (
            "How do I get the length of a {structure} in {program}?",
            "How do I find the size of a {structure} in {program}?",
        ),
        ("Which doctor treats {illness}?", "Which physician treats {illness}?"),
        ("How do I end a {contract} early?", "How do I terminate a {contract} early?"),
        ("Is {drug} safe for kids?", "Is {drug} safe for children?"),
        ("How do I insert a picture in {app}?", "How do I insert an image in {app}?"),
        ("What is the fee for a {account}?", "What is the charge for a {account}?"),
        ("What do I need to make {dish}?", "What do I require to make {dish}?"),
        ("How do I work out the area of a {shape}?", "How do I calculate the area of a {shape}?"),
        ("Which famous book did {person} write?", "Which well-known book did {person} write?"),
        ("How quickly does {drug} work?", "How fast does {drug} work?"),
        ("What should I see in {city}?", "What should I visit in {city}?"),
    ),
    "contraction": (
        ("What is the fastest train to {city}?", "What's the fastest train to {city}?"),
        ("Why does {app} not open on {system}?", "Why doesn't {app} open on {system}?"),
        ("I cannot log in to {app}, what now?", "I can't log in to {app}, what now?"),
        ("Where is the best {dish} in {city}?", "Where's the best {dish} in {city}?"),
        (
            "I have not received my {account} statement.",
            "I haven't received my {account} statement.",
        ),
        (
            "Why is it not possible to change a {structure} in {program}?",
            "Why isn't it possible to change a {structure} in {program}?",
        ),
        ("Who is {person}?", "Who's {person}?"),
        ("What is {number} percent of {large}?", "What's {number}% of {large}?"),
        ("Who should not take {drug}?", "Who shouldn't take {drug}?"),
        ("What is {illness}?", "What's {illness}?"),
        ("I am moving to {country}, what do I need?", "I'm moving to {country}, what do I need?"),
        ("What will happen if I break a {contract}?", "What'll happen if I break a {contract}?"),
        (
            "My {device} will not turn on, what can I do?",
            "My {device} won't turn on, what can I do?",
        ),
        ("How is {dish} made?", "How's {dish} made?"),
        (
            "I do not speak {language}, is that a problem?",
            "I don't speak {language}, is that a problem?",
        ),
        ("What is the perimeter of a {shape}?", "What's the perimeter of a {shape}?"),
    ),
    "word_order": (
        ("How do I merge two cells in {app}?", "In {app}, how do I merge two cells?"),
        (
            "How long should {dish} bake at {large} degrees?",
            "At {large} degrees, how long should {dish} bake?",
        ),
        ("How do I get from {city} to {city_2}?", "How do I get to {city_2} from {city}?"),
        ("What happens to my {account} when I die?", "When I die, what happens to my {account}?"),
        ("What is the sum of {number} and {large}?", "What is the sum of {large} and {number}?"),
        (
            "How do I reverse a {structure} in {program}?",
            "In {program}, how do I reverse a {structure}?",
        ),
        ("Can I drink alcohol while I take {drug}?", "While I take {drug}, can I drink alcohol?"),
        ("Which rivers flow through {country}?", "Through {country}, which rivers flow?"),
        (
            "What must I check before I sign a {contract}?",
            "Before I sign a {contract}, what must I check?",
        ),
        (
            "How do I share my screen on {system} with {app}?",
            "How do I share my screen with {app} on {system}?",
        ),
        ("What did {person} do in {year}?", "In {year}, what did {person} do?"),
        (
            "Can I replace {ingredient} with {ingredient_2} in {dish}?",
            "In {dish}, can I replace {ingredient} with {ingredient_2}?",
        ),
        (
            "My {device} makes noise since I updated it. Why?",
            "Why does my {device} make noise since I updated it?",
        ),
        (
            "What are common symptoms of {illness} in adults?",
            "In adults, what are common symptoms of {illness}?",
        ),
        (
            "How do I order coffee politely in {language}?",
            "How do I politely order coffee in {language}?",
        ),
        (
            "How do I find the area of a {shape} without a formula?",
            "Without a formula, how do I find the area of a {shape}?",
        ),
    ),
    "filler": (
        ("How do I reset my {device}?", "So, um, how do I reset my {device}?"),
        ("How do I make {dish}?", "I was wondering how to make {dish}."),
        (
            "What is the weather like in {city} in May?",
            "Hey there, what is the weather like in {city} in May?",
        ),
        ("How do I open a {account}?", "Quick question: how do I open a {account}?"),
        ("What is {large} divided by {number}?", "Okay, so what is {large} divided by {number}?"),
        (
            "How do I copy a {structure} in {program}?",
            "Does anyone know how to copy a {structure} in {program}?",
        ),
        ("What helps against {illness}?", "I wonder what helps against {illness}."),
        (
            "What is the capital of {country}?",
            "Just out of curiosity, what is the capital of {country}?",
        ),
        (
            "Can a landlord change a {contract}?",
            "I have a legal question. Can a landlord change a {contract}?",
        ),
        (
            "How do I export contacts from {app}?",
            "I need some help. How do I export contacts from {app}?",
        ),
        ("Why does {drug} make me tired?", "Well, why does {drug} actually make me tired?"),
        ("When did {person} die?", "By the way, when did {person} die?"),
        ("How do I store {ingredient}?", "Any idea how to store {ingredient}?"),
        (
            "What is the word for bread in {language}?",
            "For my homework: what is the word for bread in {language}?",
        ),
        (
            "Which plug is used in {country}?",
            "I am planning a trip. Which plug is used in {country}?",
        ),
        ("How many sides does a {shape} have?", "Basically, how many sides does a {shape} have?"),
    ),
    "case_punctuation": (
        ("How do I back up {app}?", "how do i back up {app}"),
        (
            "What is the time difference between {city} and {city_2}?",
            "what is the time difference between {city:l} and {city_2:l}",
        ),
        ("How do I freeze {dish}?", "HOW DO I FREEZE {dish:u}?"),
        ("How do I cancel my {account}?", "How do I cancel my {account} ?"),
        ("What is {number} plus {number_2}?", "what is {number} plus {number_2}"),
        (
            "How do I loop over a {structure} in {program}?",
            "how do i loop over a {structure} in {program:l}?",
        ),
        ("Is {illness} contagious?", "is {illness} contagious??"),
        ("What is the national dish of {country}?", "What is the national dish of {country}"),
        ("What makes a {contract} void?", "what makes a {contract} void"),
        ("When was {person} born?", "when was {person:l} born?"),
        ("Why is my {device} beeping?", "Why is my {device} beeping?!"),
        ("How much {ingredient} is in {dish}?", "how much {ingredient} is in {dish}?"),
        ("Can I take {drug}, and if so, how often?", "Can I take {drug} and if so how often?"),
        ("How do I count to ten in {language}?", "how do i count to ten in {language:l}"),
        ("What is the volume of a {shape}?", "WHAT IS THE VOLUME OF A {shape:u}"),
        ("How do I update {system}?", "How do i update {system}?"),
    ),
    "voice": (
        ("How is {app} installed on {system}?", "How do I install {app} on {system}?"),
        (
            "Who discovered {city} as a tourist place?",
            "By whom was {city} discovered as a tourist place?",
        ),
        ("What ingredients do I need for {dish}?", "What ingredients are needed for {dish}?"),
        ("Can the bank block my {account}?", "Can my {account} be blocked by the bank?"),
        ("How do I divide {large} by {number}?", "How is {large} divided by {number}?"),
        (
            "How is a {structure} sorted in {program}?",
            "How does one sort a {structure} in {program}?",
        ),
        ("How do doctors treat {illness}?", "How is {illness} treated by doctors?"),
        (
            "Which languages do people speak in {country}?",
            "Which languages are spoken in {country}?",
        ),
        ("Who must sign a {contract}?", "By whom must a {contract} be signed?"),
        ("What did {person} invent?", "What was invented by {person}?"),
        ("How should I clean a {device}?", "How should a {device} be cleaned?"),
        ("How do I store {ingredient} in summer?", "How is {ingredient} stored in summer?"),
        ("Does food affect {drug}?", "Is {drug} affected by food?"),
        ("How do people write dates in {language}?", "How are dates written in {language}?"),
        (
            "How can I construct a {shape} with a ruler?",
            "How can a {shape} be constructed with a ruler?",
        ),
        ("How do I encrypt {app} data?", "How can {app} data be encrypted?"),
    ),
}
