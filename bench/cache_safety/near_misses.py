"""Questions that look alike and ask something else, by what was changed. An answer shared between
the two of a pair would be wrong."""

from __future__ import annotations

from collections.abc import Mapping

NEAR_MISSES: Mapping[str, tuple[tuple[str, str], ...]] = {
    "number": (
        ("What is {number} times {large}?", "What is {number_2} times {large}?"),
        ("How long do I boil {number} eggs?", "How long do I boil {number_2} eggs?"),
        ("What is new in {program} {version}?", "What is new in {program} {version_2}?"),
        ("Which train leaves {city} at {hour}?", "Which train leaves {city} at {hour_2}?"),
        (
            "How do I transfer ${amount} to my {account}?",
            "How do I transfer ${amount_2} to my {account}?",
        ),
        ("What happened in {country} in {year}?", "What happened in {country} in {year_2}?"),
        ("Can I take {number} mg of {drug}?", "Can I take {number_2} mg of {drug}?"),
        (
            "Is a {contract} of {number} months valid?",
            "Is a {contract} of {number_2} months valid?",
        ),
        ("What is {number}% of {large}?", "What is {number_2}% of {large}?"),
        ("Is it -{number} degrees in {city}?", "Is it {number} degrees in {city}?"),
        ("Who was the {ordinal} mayor of {city}?", "Who was the {ordinal_2} mayor of {city}?"),
        ("How do I scale {dish} for twelve people?", "How do I scale {dish} for twenty people?"),
        ("Is 3.10 of {app} safe on {system}?", "Is 3.1 of {app} safe on {system}?"),
        ("What does error {large} mean in {app}?", "What does error {large_2} mean in {app}?"),
        ("Who ruled {country} in World War I?", "Who ruled {country} in World War II?"),
        ("Name three rivers in {country}.", "Name five rivers in {country}."),
    ),
    "entity": (
        ("What is the capital of {country}?", "What is the capital of {country_2}?"),
        ("How do I reset my {app} password?", "How do I reset my {app_2} password?"),
        ("When was {person} born?", "When was {person_2} born?"),
        ("What is the weather like in {city}?", "What is the weather like in {city_2}?"),
        ("What are the side effects of {drug}?", "What are the side effects of {drug_2}?"),
        ("How do I make {dish}?", "How do I make {dish_2}?"),
        (
            "How do I sort a {structure} in {program}?",
            "How do I sort a {structure} in {program_2}?",
        ),
        ("How do I close my {account}?", "How do I close my {account_2}?"),
        ("Can I cancel a {contract}?", "Can I cancel a {contract_2}?"),
        ("What is the area of a {shape}?", "What is the area of a {shape_2}?"),
        ("How do I clean a {device}?", "How do I clean a {device_2}?"),
        ("What causes {illness}?", "What causes {illness_2}?"),
        (
            'Explain the word "{ingredient}" to {name}.',
            'Explain the word "{ingredient_2}" to {name}.',
        ),
        ("Write an e-mail to {name} about {city}.", "Write an e-mail to {name_2} about {city}."),
        ("How do I update {system}?", "How do I update {system_2}?"),
        (
            "What does `{ingredient}_id` mean in {program}?",
            "What does `{ingredient_2}_id` mean in {program}?",
        ),
    ),
    "negation": (
        ("How do I enable sync in {app}?", "How do I disable sync in {app}?"),
        ("Which fish can I eat in {city}?", "Which fish can I not eat in {city}?"),
        ("Who should take {drug}?", "Who shouldn't take {drug}?"),
        ("How do I make {dish} with {ingredient}?", "How do I make {dish} without {ingredient}?"),
        ("Do I need a visa for {country}?", "Don't I need a visa for {country}?"),
        ("When is a {contract} valid?", "When is a {contract} invalid?"),
        ("Which bank charges fees for a {account}?", "Which bank charges no fees for a {account}?"),
        (
            "Why is a {structure} mutable in {program}?",
            "Why is a {structure} immutable in {program}?",
        ),
        ("How do I install {app} on {system}?", "How do I uninstall {app} on {system}?"),
        ("What must I tell {name} about {city}?", "What must I never tell {name} about {city}?"),
        ("Is {illness} contagious?", "Is {illness} not contagious?"),
        ("Why does my {device} connect?", "Why does my {device} disconnect?"),
        ("Which {shape} is regular?", "Which {shape} is irregular?"),
        (
            "Can I travel to {country} with a passport?",
            "Can I travel to {country} without a passport?",
        ),
        ("Is {ingredient} healthy?", "Is {ingredient} unhealthy?"),
        ("Did {person} ever marry?", "Did {person} never marry?"),
    ),
    "unit": (
        ("How far is {large} km from {city}?", "How far is {large} miles from {city}?"),
        ("Bake {dish} at {large} C", "Bake {dish} at {large} F"),
        ("Is {number} kg of {ingredient} too much?", "Is {number} lb of {ingredient} too much?"),
        ("Is ${amount} enough for {city}?", "Is €{amount} enough for {city}?"),
        ("Is {number} GB enough for {app}?", "Is {number} MB enough for {app}?"),
        ("Can I take {drug} every {number} hours?", "Can I take {drug} every {number} minutes?"),
        (
            "Is {number} days notice enough for a {contract}?",
            "Is {number} weeks notice enough for a {contract}?",
        ),
        (
            "What is the area of a {shape} with side {number} cm?",
            "What is the area of a {shape} with side {number} m?",
        ),
        (
            "How do I add {number} ml of milk to {dish}?",
            "How do I add {number} l of milk to {dish}?",
        ),
        ("Is {large} Mbit fast enough for {app}?", "Is {large} Mbyte fast enough for {app}?"),
        ("Can I pay {amount} pounds in {country}?", "Can I pay {amount} euros in {country}?"),
        (
            "How long is {number} light years from {city}?",
            "How long is {number} years from {city}?",
        ),
        ("Is {large} mg of {drug} dangerous?", "Is {large} g of {drug} dangerous?"),
        ("Does my {device} need {large} W?", "Does my {device} need {large} V?"),
        (
            "Is {number}% interest on a {account} high?",
            "Is {number} dollars interest on a {account} high?",
        ),
        ("How tall is {number} feet for {name}?", "How tall is {number} inches for {name}?"),
    ),
    "language": (
        ("How do I say thank you in {language}?", "How do I say thank you in {language_2}?"),
        ("Write a poem about {city} in {language}.", "Write a poem about {city} in {language_2}."),
        (
            "Translate {ingredient} from English to {language}.",
            "Translate {ingredient} from English to {language_2}.",
        ),
        (
            "What is the capital of {country}?",
            "Was ist die Hauptstadt von {country}?",  # codespell:ignore
        ),
        ("Explain {illness} in {language}.", "Explain {illness}."),
        ("Where is {city}?", "Wo ist {city}?"),  # codespell:ignore
        ("Write a letter to {name}.", "Write a letter to {name} in {language}."),
        ("Who was {person}?", "Qui était {person} ?"),
        (
            "Explain a {structure} in {program} auf Deutsch.",
            "Explain a {structure} in {program} en español.",
        ),
        ("How much does {app} cost?", "¿Cuánto cuesta {app}?"),
        (
            "Give me a recipe for {dish} in {language}.",
            "Give me a recipe for {dish} in simple {language_2}.",
        ),
        ("Can I drink with {drug}?", "Posso bere con {drug}?"),
        (
            "Translate this into {language}: my {device} is new",
            "Translate this into {language_2}: my {device} is new",
        ),
        ("What is a {contract}?", "Wat is een {contract}?"),
        ("Is {language} harder than {language_2}?", "Is {language_2} harder than {language}?"),
        (
            "Summarize the life of {person} in {language}.",
            "Summarize the life of {person} in {language_2}.",
        ),
    ),
    "antonym": (
        (
            "How do I sort a {structure} in ascending order in {program}?",
            "How do I sort a {structure} in descending order in {program}?",
        ),
        ("What is the longest river in {country}?", "What is the shortest river in {country}?"),
        ("Can I take {drug} before lunch?", "Can I take {drug} after lunch?"),
        ("How do I increase the volume in {app}?", "How do I decrease the volume in {app}?"),
        ("How do I open a {account}?", "How do I close a {account}?"),
        ("How do I import contacts into {app}?", "How do I export contacts into {app}?"),
        ("Who was the first president of {country}?", "Who was the last president of {country}?"),
        ("Why is my {device} so loud?", "Why is my {device} so quiet?"),
        ("What is the cheapest hotel in {city}?", "What is the most expensive hotel in {city}?"),
        ("What makes {illness} better?", "What makes {illness} worse?"),
        ("How do I make {dish} thicker?", "How do I make {dish} thinner?"),
        (
            "What is the minimum of {number} and {large}?",
            "What is the maximum of {number} and {large}?",
        ),
        (
            "How do I win a dispute about a {contract}?",
            "How do I lose a dispute about a {contract}?",
        ),
        ("What is the inner angle of a {shape}?", "What is the outer angle of a {shape}?"),
        ("Does {person} appear early in the book?", "Does {person} appear late in the book?"),
        ("How do I encrypt files on {system}?", "How do I decrypt files on {system}?"),
    ),
    "direction": (
        ("How do I fly from {city} to {city_2}?", "How do I fly from {city_2} to {city}?"),
        ("Convert {number} euros to dollars.", "Convert {number} dollars to euros."),
        ("How do I migrate from {app} to {app_2}?", "How do I migrate from {app_2} to {app}?"),
        (
            "Can I replace {ingredient} with {ingredient_2}?",
            "Can I replace {ingredient_2} with {ingredient}?",
        ),
        ("What is {large} divided by {number}?", "What is {number} divided by {large}?"),
        (
            "How do I turn a {structure} into a {structure_2}?",
            "How do I turn a {structure_2} into a {structure}?",
        ),
        ("Does {drug} make {drug_2} weaker?", "Does {drug_2} make {drug} weaker?"),
        ("Does {illness} lead to {illness_2}?", "Does {illness_2} lead to {illness}?"),
        ("Is {country} larger than {country_2}?", "Is {country_2} larger than {country}?"),
        (
            "Can {name} sue {name_2} over a {contract}?",
            "Can {name_2} sue {name} over a {contract}?",
        ),
        (
            "Move {amount} dollars from my {account} to my {account_2}.",
            "Move {amount} dollars from my {account_2} to my {account}.",
        ),
        (
            "Translate this from {language} into {language_2}.",
            "Translate this from {language_2} into {language}.",
        ),
        ("Did {person} teach {person_2}?", "Did {person_2} teach {person}?"),
        (
            "How do I port code from {program} to {program_2}?",
            "How do I port code from {program_2} to {program}?",
        ),
        ("What is {large} minus {number}?", "What is {number} minus {large}?"),
        (
            "How do I add {ingredient} after {ingredient_2}?",
            "How do I add {ingredient_2} after {ingredient}?",
        ),
    ),
    "aspect": (
        ("Who is the president of {country}?", "Who was the president of {country}?"),
        ("Can I take {drug} daily?", "Must I take {drug} daily?"),
        ("How do I make {dish}?", "Why do I make {dish}?"),
        ("Where was {person} born?", "When was {person} born?"),
        ("List all rivers of {country}.", "List some rivers of {country}."),
        ("Is {illness} always treated?", "Is {illness} sometimes treated?"),
        ("How can you sell {ingredient}?", "How can I sell {ingredient}?"),
        ("What is my {contract} worth?", "What is your {contract} worth?"),
        ("How much does {app} cost per user?", "How much does {app} cost per year?"),
        ("What should {name} see in {city}?", "What could {name} see in {city}?"),
        ("Do I have to buy a {device}?", "May I buy a {device}?"),
        ("How many sides does a {shape} have?", "How many corners does a {shape} have?"),
        ("Which is the best {dish} in {city}?", "Which is the second best {dish} in {city}?"),
        ("How do I delete a file in {app}?", "How do I delete every file in {app}?"),
        ("Is {program} faster than {program_2}?", "Is {program} as fast as {program_2}?"),
        ("Who opened the {account}?", "Who will open the {account}?"),
    ),
}
