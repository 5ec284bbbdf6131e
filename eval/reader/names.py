"""The words facts are made of: names, towns, trades, things. Knows lists, no sentences.

Every word stands for itself only: an instance draws its words at random, so that nothing about them can be learnt by heart.
"""

from __future__ import annotations


def _words(text: str) -> list[str]:
    return text.split()


WOMEN = _words(
    """
    Ada Agnes Alba Alice Alma Amelia Amira Anika Anna Astrid Aurora Beatrix Berta Bianca Birgit Carla Celia Clara Cora Dagmar
    Daria Delia Diana Dora Edith Elena Elisa Ella Elsa Emma Erika Esther Eva Fatima Fiona Flora Frida Gerda Gina Greta Hanna
    Hedda Helga Ida Ines Ingrid Irene Iris Isolde Ivana Jana Jasmin Joana Julia Karin Klara Laila Larissa Laura Lena Lidia
    Lotte Lucia Luisa Magda Maja Marta Maya Mila Mina Mira Nadia Nina Nora Olga Paula Petra Pia Rahel Renata Rita Rosa Ruth
    Sabine Sara Selma Silvia Sofia Stella Tamara Tessa Thea Tilda Ulla Valeria Vera Wanda Yara Zelda
    """
)

MEN = _words(
    """
    Aaron Adam Albert Alexis Anton Arno Arthur Axel Basil Bela Benno Bertram Boris Bruno Carlo Casper Clemens Conrad Cyril
    Damian Daniel David Dennis Edgar Edwin Egon Elias Emil Enzo Erik Ernst Ethan Felix Ferdi Filip Frank Georg Gilbert Gregor
    Gustav Hakim Hannes Harald Hector Henrik Hugo Idris Igor Ilya Isaac Ivan Jakob Jamal Jonas Josef Julius Kaspar Kilian
    Konrad Lars Leo Leon Linus Lorenz Lukas Magnus Marco Marius Matteo Milan Moritz Nathan Nils Noah Olaf Oscar Otto Oswin
    Pablo Pascal Pavel Philip Quentin Rafael Ralf Ramon Robin Roland Rufus Samuel Sergei Simon Sven Theo Tobias Ulrich Urs
    Victor Walter Yusuf
    """
)

FAMILIES = _words(
    """
    Abbot Adler Alder Ames Arden Ashby Bauer Baxter Beck Berger Bishop Blom Bolt Bond Bosch Bower Brandt Brook Burke Byrne
    Calder Carver Chase Cobb Colt Conti Cooper Costa Crane Cross Curtis Dale Dalton Darrow Denk Devlin Dietz Dorn Drake Dubois
    Duval Egger Ehlers Ellis Faber Farrow Fenn Ferro Finch Fischer Flint Forster Frost Fuchs Galli Garner Geiger Glass Goss
    Graf Grimm Gruber Haas Hahn Hale Hardy Hartmann Hauser Hayes Heller Hirsch Holt Horn Huber Hurst Innes Jansen Jensen Joyce
    Kane Kaiser Keller Kern Klein Koch Kovacs Kramer Krause Lambert Lang Larsen Lind Linden Locke Lorca Lutz Maier Mann Marsh
    Mercer Meyer Milner Moreau Moser Nagel Nash Neumann Nolan Novak Olsen Orlov Osborn Palmer Parker Pereira Perrin Pohl
    Porter Pratt Quinn Ramos Rasmus Reed Reiter Rice Ritter Roth Rowe Rubin Russo Salter Sauer Schmidt Sharp Silva Sommer
    Stark Stein Stone Storm Sutter Tanner Thorne Tolle Tucker Turner Vance Vasquez Vega Vogel Voss Wagner Walsh Weber Weiss
    Wells West Wilde Winter Wolff Yates Zander Ziegler Zimmer
    """
)

TOWNS = _words(
    """
    Aachen Aarhus Ankara Antwerp Athens Basel Bergen Berlin Bilbao Bologna Bonn Bordeaux Boston Bremen Bristol Bruges Brussels
    Bucharest Budapest Cadiz Cairo Calais Cardiff Chicago Cologne Cork Cremona Dakar Delft Denver Dijon Dresden Dublin Dundee
    Erfurt Essen Exeter Ferrara Florence Freiburg Gdansk Geneva Genoa Ghent Glasgow Graz Halle Hamburg Hanoi Havana Helsinki
    Innsbruck Jena Kassel Kiel Krakow Kyoto Lagos Lausanne Leeds Leipzig Leuven Liege Lille Lima Limerick Linz Lisbon London
    Lucerne Lugano Lund Lyon Madrid Mainz Malaga Malmo Manila Milano Modena Monaco Munich Nairobi Nantes Naples Narvik Nicosia
    Oporto Orleans Osaka Oslo Ostend Oxford Padua Palermo Paris Parma Perugia Pisa Potsdam Prague Quito Ravenna Reims Riga
    Rome Rostock Salerno Salzburg Seville Siena Split Stockholm Stuttgart Tallinn Tampere Tartu Toledo Toulouse Trento Trier
    Trieste Tunis Turin Turku Uppsala Utrecht Valencia Venice Verona Vienna Vilnius Warsaw Zagreb Zurich
    """
)

TRADES = _words(
    """
    baker banker barber brewer butcher carpenter chemist clerk coach cobbler cook dancer dentist diver doctor driver editor
    farmer fisher florist gardener glazier grocer guard guide hatter hunter jeweller joiner judge lawyer librarian locksmith
    mason mechanic miller miner nurse painter pharmacist pilot plumber poet porter potter printer publisher roofer saddler
    sailor sculptor shepherd singer smith soldier surgeon tailor teacher translator typist waiter weaver welder writer
    """
)

LANGUAGES = _words(
    """
    Albanian Arabic Armenian Basque Bengali Breton Bulgarian Catalan Chinese Croatian Czech Danish Dutch Estonian Farsi
    Finnish French Frisian Gaelic Galician Georgian German Greek Gujarati Hausa Hebrew Hindi Hungarian Icelandic Italian
    Japanese Kazakh Khmer Korean Latvian Lithuanian Malay Maltese Maori Mongolian Nepali Norwegian Polish Portuguese Punjabi
    Romanian Russian Serbian Slovak Somali Spanish Swahili Swedish Tamil Thai Turkish Urdu Welsh Yoruba Zulu
    """
)

INSTRUMENTS = _words(
    """
    accordion bagpipe balalaika banjo bassoon bugle cello clarinet cornet drum dulcimer fiddle flute glockenspiel gong guitar
    harmonica harp harpsichord horn kazoo lute lyre mandolin marimba oboe ocarina organ piano piccolo recorder saxophone sitar
    tambourine timpani triangle trombone trumpet tuba ukulele viola violin xylophone zither
    """
)

ANIMALS = _words(
    """
    alpaca badger beagle budgie camel canary cat chameleon cockatoo collie crow dachshund dog donkey duck falcon ferret frog
    gecko gerbil goat goldfish goose hamster hare hawk hedgehog hen horse iguana jackdaw kitten lamb lizard llama magpie mouse
    mule newt otter owl parrot peacock pig pigeon pony poodle pug pup rabbit rat raven rooster sheep snail snake spaniel
    squirrel swan terrier toad tortoise turkey turtle
    """
)

GOODS = _words(
    """
    amber barrels bells boots brandy bricks butter buttons candles carpets ceramics cheese cherries chocolate cider clocks
    coffee copper cotton cutlery dates dolls fans figs furs garlic glass gloves gold grapes hats herring honey ivory jam
    knives lace lamps leather lemons linen marble melons mirrors mustard nails needles olives onions oranges paper peaches
    pearls pepper pipes plums porcelain pottery raisins ribbons ropes saffron salmon salt sausages scissors silk silver soap
    spices steel sugar tea tiles timber tobacco toys umbrellas velvet vinegar walnuts watches wheat wine wool
    """
)

COLOURS = _words(
    """
    amethyst beige black blue bronze brown crimson cyan emerald green grey indigo khaki lilac magenta maroon mauve navy ochre
    olive orange pink purple red rust scarlet tan teal turquoise ultramarine violet white yellow
    """
)

RIVERS = _words(
    """
    Adige Aller Avon Clyde Danube Dniester Don Dordogne Douro Drava Ebro Elbe Ems Garonne Havel Indus Inn Isar Jordan Kama
    Kemi Lahn Lech Loire Main Marne Meuse Mosel Narva Neckar Nile Oder Oka Orne Po Rhine Rhone Ruhr Saale Saar Sava Seine
    Severn Spree Tagus Thames Tiber Ural Vistula Volga Weser
    """
)

GROUPS = (WOMEN, MEN, FAMILIES, TOWNS, TRADES, LANGUAGES, INSTRUMENTS, ANIMALS, GOODS, COLOURS, RIVERS)
