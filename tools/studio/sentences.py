"""English sentences for training: :class:`SentenceGenerator` (endless, by seed) and the held-out evaluation set.

Grammar templates over hand-written word lists give natural rhythm; draws from the CMU dictionary,
banded by the frequency that pocketsphinx's language model gives each word, give coverage. Numbers,
money, dates and times come spelled out, the way the text front end spells them.
"""

from __future__ import annotations

import functools
import os
import random
import re
from collections.abc import Callable

from streamchar_rt.orchestrator.numbers import cardinal, ordinal, year

from tools.studio.evaluation_set import EVALUATION_SENTENCES

_NOUNS = """
apple arm artist autumn baby bag baker ball bank basket beach bear bed bell bench bicycle bird birthday boat
body book bottle bowl box boy branch bread breakfast bridge brother brush bucket building bus butter button cake
camera camp candle captain car card carpet castle cat chair cheese chicken child church circle city class clock
cloud coat coffee coin color computer concert cookie corner country cousin cow crowd cup curtain dance daughter
day desk dinner doctor dog door dragon dream dress driver duck ear earth egg engine evening example eye face
factory family farm farmer father feather field film finger fire fish floor flower fog forest fork fox friend
fruit game garden gate gift girl glass glove goat grass group guest guitar hall hammer hand harbor hat head
heart hill hobby holiday horse hospital hotel hour house idea island jacket job joke journey judge juice key
kitchen kite knife ladder lady lake lamp language lantern laugh leaf lesson letter library light lion list
machine map market meal meeting message mirror moment money monkey month moon morning mother mountain mouse
movie museum music name nation nature neighbor nest night noise nose note number nurse object ocean office oil
onion orange owner page painting pair palace paper parent park part party path pen pencil person phone photo
picture piece pilot pipe place plan plane planet plant plate player pocket poem police pond potato present price
prince princess problem project promise question rabbit race radio rain reason recipe reporter restaurant ring
river road robot roof room rope rose sailor salad salt sand sandwich school science screen sea season secret
sentence shadow sheep shelf ship shirt shoe shop shoulder signal singer sister sky snake snow soldier song sound
soup space speech spoon spring square stage stair star station stone store storm story stranger street student
summer sun surprise sweater table tail teacher team television tent theater thing thought thumb ticket tiger
tomato tongue tool tooth tower town toy track train tree trip truck uncle vegetable village violin visitor voice
volcano waiter walk wall watch water weather week wheel whistle wife wind window wing winter wizard wolf woman
wood word work world writer yard year zebra zoo
""".split()
_NO_PLURAL = set(
    "money music bread butter rain snow water weather police salt earth sand nature science cheese".split()
)
_PLURALS = {
    "child": "children", "woman": "women", "man": "men", "person": "people", "tooth": "teeth", "mouse": "mice",
    "sheep": "sheep", "fish": "fish", "knife": "knives", "leaf": "leaves", "wolf": "wolves", "wife": "wives",
    "shelf": "shelves", "hobby": "hobbies", "tomato": "tomatoes", "potato": "potatoes", "volcano": "volcanoes",
}  # fmt: skip
_ADJECTIVES = """
able afraid amazing ancient angry awful bad beautiful big bitter black blue bold brave bright brilliant broken
brown busy calm careful cheap cheerful clean clear clever cold common complete cool correct crazy curious
dangerous dark dear deep delicious different difficult dirty dry dull early easy elegant empty enormous equal
exact excellent expensive fair famous fast final fine flat foolish foreign free fresh friendly funny gentle
giant glad golden good grand gray great green happy hard healthy heavy helpful high hollow honest hot huge
hungry important incredible innocent interesting jealous joyful kind large last late lazy light little local
lonely long loose loud lovely lucky magic main modern narrow natural near necessary nervous new nice noisy odd
old open ordinary orange pale perfect plain pleasant polite poor popular possible powerful pretty private proud
public pure purple quick quiet rare ready real red regular rich rough round royal sad safe secret serious sharp
short shy sick silent silly silver simple single slow small smart smooth soft sour special square strange strong
sudden sunny sure sweet tall terrible thick thin thirsty tidy tiny tired tough true ugly unusual useful useless
usual valuable violet warm weak weird wet white whole wide wild wise wonderful wooden wrong yellow young
""".split()
_ADVERBS = """
again almost always angrily badly barely beautifully bravely briefly brightly calmly carefully certainly
cheerfully clearly closely completely constantly correctly deeply early easily eagerly eventually exactly
finally frequently generally gently gladly gracefully greatly happily hardly honestly immediately instead kindly
lately later loudly luckily mostly naturally nearly nervously never nicely normally now obviously often once
originally partly perfectly politely poorly possibly probably properly proudly quickly quietly rarely really
recently regularly sadly safely seldom seriously sharply silently simply slowly smoothly softly somehow
sometimes soon strangely strongly suddenly surely tomorrow tonight today together truly twice usually very
warmly weakly well wildly wisely yesterday
""".split()
# base, third person, past, -ing; "t" verbs take an object
_TRANSITIVE = """
bring/brings/brought/bringing build/builds/built/building buy/buys/bought/buying call/calls/called/calling
carry/carries/carried/carrying catch/catches/caught/catching change/changes/changed/changing
choose/chooses/chose/choosing clean/cleans/cleaned/cleaning close/closes/closed/closing
cook/cooks/cooked/cooking cover/covers/covered/covering cut/cuts/cut/cutting
describe/describes/described/describing discover/discovers/discovered/discovering draw/draws/drew/drawing
drop/drops/dropped/dropping enjoy/enjoys/enjoyed/enjoying examine/examines/examined/examining
expect/expects/expected/expecting explain/explains/explained/explaining feel/feels/felt/feeling
fetch/fetches/fetched/fetching find/finds/found/finding finish/finishes/finished/finishing
follow/follows/followed/following forget/forgets/forgot/forgetting fix/fixes/fixed/fixing give/gives/gave/giving
guard/guards/guarded/guarding hear/hears/heard/hearing help/helps/helped/helping hide/hides/hid/hiding
hold/holds/held/holding imagine/imagines/imagined/imagining invite/invites/invited/inviting
join/joins/joined/joining keep/keeps/kept/keeping kick/kicks/kicked/kicking know/knows/knew/knowing
leave/leaves/left/leaving lift/lifts/lifted/lifting like/likes/liked/liking lose/loses/lost/losing
love/loves/loved/loving make/makes/made/making measure/measures/measured/measuring meet/meets/met/meeting
mention/mentions/mentioned/mentioning move/moves/moved/moving need/needs/needed/needing
notice/notices/noticed/noticing offer/offers/offered/offering open/opens/opened/opening
order/orders/ordered/ordering own/owns/owned/owning paint/paints/painted/painting pass/passes/passed/passing
pick/picks/picked/picking prefer/prefers/preferred/preferring prepare/prepares/prepared/preparing
promise/promises/promised/promising protect/protects/protected/protecting pull/pulls/pulled/pulling
push/pushes/pushed/pushing raise/raises/raised/raising reach/reaches/reached/reaching
receive/receives/received/receiving remember/remembers/remembered/remembering remove/removes/removed/removing
repair/repairs/repaired/repairing save/saves/saved/saving see/sees/saw/seeing sell/sells/sold/selling
send/sends/sent/sending share/shares/shared/sharing shake/shakes/shook/shaking show/shows/showed/showing
sign/signs/signed/signing steal/steals/stole/stealing study/studies/studied/studying
surprise/surprises/surprised/surprising take/takes/took/taking taste/tastes/tasted/tasting
teach/teaches/taught/teaching throw/throws/threw/throwing touch/touches/touched/touching
trust/trusts/trusted/trusting turn/turns/turned/turning understand/understands/understood/understanding
use/uses/used/using visit/visits/visited/visiting want/wants/wanted/wanting wash/washes/washed/washing
watch/watches/watched/watching wear/wears/wore/wearing win/wins/won/winning wrap/wraps/wrapped/wrapping
write/writes/wrote/writing
""".split()
_INTRANSITIVE = """
agree/agrees/agreed/agreeing appear/appears/appeared/appearing arrive/arrives/arrived/arriving
begin/begins/began/beginning bend/bends/bent/bending breathe/breathes/breathed/breathing
burn/burns/burned/burning climb/climbs/climbed/climbing come/comes/came/coming
complain/complains/complained/complaining cough/coughs/coughed/coughing cry/cries/cried/crying
dance/dances/danced/dancing disappear/disappears/disappeared/disappearing dream/dreams/dreamed/dreaming
drift/drifts/drifted/drifting exist/exists/existed/existing fall/falls/fell/falling fight/fights/fought/fighting
fly/flies/flew/flying freeze/freezes/froze/freezing go/goes/went/going grow/grows/grew/growing
happen/happens/happened/happening hurry/hurries/hurried/hurrying jump/jumps/jumped/jumping
laugh/laughs/laughed/laughing lie/lies/lay/lying listen/listens/listened/listening live/lives/lived/living
march/marches/marched/marching melt/melts/melted/melting move/moves/moved/moving pause/pauses/paused/pausing
rest/rests/rested/resting rise/rises/rose/rising run/runs/ran/running sail/sails/sailed/sailing
shine/shines/shone/shining shout/shouts/shouted/shouting sing/sings/sang/singing sit/sits/sat/sitting
sleep/sleeps/slept/sleeping smile/smiles/smiled/smiling speak/speaks/spoke/speaking spin/spins/spun/spinning
stand/stands/stood/standing stay/stays/stayed/staying stop/stops/stopped/stopping swim/swims/swam/swimming
talk/talks/talked/talking travel/travels/traveled/traveling vanish/vanishes/vanished/vanishing
wait/waits/waited/waiting wake/wakes/woke/waking walk/walks/walked/walking wander/wanders/wandered/wandering
whisper/whispers/whispered/whispering work/works/worked/working yawn/yawns/yawned/yawning
""".split()
_NAMES = """
Aaron Adam Alan Alex Alice Amanda Amy Andrea Andrew Angela Anna Anthony Barbara Ben Betty Bob Brian Carlos Carol
Caroline Charles Charlotte Chloe Chris Claire Daniel David Deborah Dennis Diana Donald Dorothy Edward Elizabeth
Ella Emily Emma Eric Ethan Eva Evelyn Frank Gabriel George Gloria Grace Hannah Harold Harry Helen Henry Isaac
Isabella Jack Jacob James Jane Janet Jason Jean Jennifer Jeremy Jessica Joan John Jonathan Joseph Joshua Joyce
Juan Judy Julia Justin Karen Katherine Keith Kelly Kevin Kyle Larry Laura Lauren Lily Linda Lisa Louis Lucas
Lucy Margaret Maria Mark Martha Martin Mary Matthew Megan Michael Michelle Nancy Natalie Nathan Nicholas Nicole
Noah Olivia Oscar Pamela Patricia Patrick Paul Peter Philip Rachel Ralph Raymond Rebecca Richard Robert Roger
Rose Roy Russell Ruth Ryan Samantha Samuel Sandra Sarah Scott Sharon Sophia Stephanie Stephen Steven Susan
Teresa Theodore Thomas Timothy Tyler Victoria Vincent Virginia Walter Wayne William Zachary Zoe
""".split()
_SURNAMES = """
Adams Allen Anderson Baker Bell Brooks Brown Campbell Carter Clark Collins Cooper Davis Edwards Evans Fisher
Foster Garcia Gonzalez Gray Green Hall Harris Hughes Jackson Johnson Jones Kelly Kennedy King Lee Lewis Lopez
Martinez Miller Mitchell Moore Morgan Morris Murphy Nelson Parker Patel Perez Peterson Phillips Price Ramirez
Reed Rivera Roberts Robinson Rodriguez Rogers Sanchez Sanders Scott Simmons Smith Stewart Sullivan Taylor
Thompson Torres Turner Walker Ward Washington Watson White Williams Wilson Wood Wright Young
""".split()
_PLACES = """
Africa Alaska America Amsterdam Argentina Asia Athens Atlanta Australia Austria Barcelona Belgium Berlin Boston
Brazil Britain California Canada Chicago Chile China Colorado Cuba Dallas Denver Denmark Detroit Dublin Egypt
England Europe Finland Florida France Geneva Georgia Germany Greece Hawaii Houston Hungary Iceland India
Indonesia Iran Iraq Ireland Israel Italy Jamaica Japan Jerusalem Kansas Kenya Korea London Madrid Mexico Miami
Michigan Minnesota Montana Morocco Moscow Nepal Nevada Norway Ohio Oregon Oxford Paris Peru Phoenix Poland
Portugal Rome Russia Scotland Seattle Spain Sweden Switzerland Sydney Texas Tokyo Toronto Turkey Utah Venice
Vienna Vietnam Virginia Wales Washington
""".split()
_MONTHS = "January February March April May June July August September October November December".split()
_DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
_UNITS = """
seconds minutes hours days weeks months years inches feet yards miles meters kilometers grams kilograms pounds
ounces tons liters gallons cups pieces pages steps people percent degrees points dollars cents euros times
""".split()
_PREPOSITIONS = """
above across after against along around at before behind below beneath beside between beyond by during for from
in inside into near next\u00a0to on on\u00a0top\u00a0of out\u00a0of outside over past through toward towards
under until up with without
""".split()
_SUBJECTS = "I you he she it we they everyone somebody nobody".split()
_OBJECTS = "me you him her it us them everyone something nothing".split()
_DETERMINERS = "the the the the the a a a this that my your his her our their every another one some each no".split()
_PLURAL_DETERMINERS = (
    "the the the these those my your his her our their some many few several most all two three".split()
)
_SHORT = (
    """
Yes.|No.|Hello!|Hi there!|Hello there!|Good morning.|Good evening, everyone.|Good night.|Thank you.
Thank you very much!|Thanks a lot.|You're welcome.|I see.|I don't know.|I'm not sure.|Of course.|Of course not!
Sure.|Sure, why not?|Maybe.|Maybe later.|Okay.|Okay, let's go.|All right.|All right then.|Wait!|Wait a minute.
Stop!|Stop it!|Look!|Look at that!|Listen.|Please.|Yes, please.|No, thanks.|Not at all.|Not now.|Not yet.|Never.
Never mind.|Always.|Really?|Are you sure?|What?|What's that?|What's wrong?|Why?|Why not?|Who is it?|Who's there?
Where?|Where are you?|When?|How?|How are you?|How much is it?|How do you do?|I'm fine, thanks.|Excuse me.|Sorry.
I'm so sorry.|No problem.|Don't worry.|Be careful!|Come on!|Come in.|Come here, please.|Go ahead.|Go away!
Sit down.|Stand up.|Hurry up!|Well done!|Well, well, well.|Good job!|Great!|Wonderful!|Awesome!|Wow!|Oh no!
Oh, I see.|Oops.|Hmm, let me think.|Let's see.|Let me see.|Let's get started.|Here we go!|Here you are.
There it is.|That's right.|That's wrong.|That's it.|That's all.|That's great!|That's amazing!|Exactly.
Absolutely!|Definitely.|Perhaps.|Probably not.|Certainly.|Nice to meet you.|See you soon.|See you later!
See you tomorrow.|Bye!|Goodbye.|Goodbye, friend.|Take care.|Good luck!|Congratulations!|Happy birthday!|Welcome!
Welcome back.|Cheers!|Help!|Ready?|Ready, set, go!|One moment.|It's me.|It's okay.|It's late.|It works!|I agree.
I love it!|I can't.|I won't.|I will.|I did it!|You did it!|We won!|They lost.|He's here.|She's gone.|Who knows?
Who cares?|So what?|Guess what?|Is that true?|Is it?|Does it?|Did you?|Can you hear me?
""".replace("\n", "|")
    .strip("|")
    .split("|")
)
_OPENERS = (
    """
well,|so,|now,|okay,|first,|then,|finally,|in fact,|of course,|by the way,|for example,|on the other hand,
to be honest,|after all,|as usual,|at last,|once again,|in the end,|strangely enough,|believe it or not,
years ago,|one day,|this morning,|last night,|today,|tomorrow,|fortunately,|unfortunately,|however,|meanwhile,
oh,|hey,|look,|listen,|yes,|no,|actually,|maybe
""".replace("\n", "|")
    .strip("|")
    .split("|")
)
_CONJUNCTIONS = "because when while if although after before until since unless as whenever though where".split()
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_TITLES = "doctor mister missus miss professor captain president uncle aunt".split()

_HAS_VOWEL = re.compile(r"[aeiouy]")


@functools.cache
def dictionary_bands() -> tuple[tuple[str, ...], ...]:
    """Dictionary words in four bands, from the 1,500 most frequent words to those no one has counted."""
    import pocketsphinx

    model = pocketsphinx.get_model_path("en-us")
    with open(os.path.join(model, "cmudict-en-us.dict"), encoding="utf-8") as lines:
        words = {line.split(maxsplit=1)[0] for line in lines}
    language_model = pocketsphinx.NGramModel(
        pocketsphinx.Config(lm=None), pocketsphinx.LogMath(1.0001), os.path.join(model, "en-us.lm.bin")
    )
    # A dictionary "word" without a vowel is an acronym or a noise; without the length limit come run-together names.
    kept = [
        word for word in words
        if re.fullmatch(r"[a-z]+('[a-z]{1,2})?", word) and _HAS_VOWEL.search(word) and (1 < len(word) <= 14)
    ]  # fmt: skip
    ranked = sorted(kept, key=lambda word: (-language_model.prob([word]), word))
    return tuple(ranked[:1500]), tuple(ranked[1500:8000]), tuple(ranked[8000:30000]), tuple(ranked[30000:])


def normalized(sentence: str) -> str:
    """Lower-case words only: the form in which two sentences are compared."""
    return " ".join(re.findall(r"[a-z']+", sentence.lower()))


def evaluation_sentences() -> list[str]:
    """The 100 held-out sentences; :class:`SentenceGenerator` never yields one of them."""
    return list(EVALUATION_SENTENCES)


_HELD_OUT = frozenset(normalized(s) for s in EVALUATION_SENTENCES)


def _article(phrase: str) -> str:
    return ("an " if phrase[0] in "aeiou" else "a ") + phrase


def _plural(noun: str) -> str:
    if noun in _PLURALS:
        return _PLURALS[noun]
    if noun.endswith(("s", "x", "ch", "sh")):
        return noun + "es"
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return noun[:-1] + "ies"
    return noun + "s"


class SentenceGenerator:
    """Deterministic by seed: ``SentenceGenerator(seed).turn()`` is the same text everywhere."""

    def __init__(self, seed: int | str) -> None:
        self._r = random.Random(seed)
        self._bands = dictionary_bands()

    def turn(self) -> str:
        """One utterance: mostly one sentence, now and then two or three. Never a held-out sentence."""
        while True:
            count = self._r.choices((1, 2, 3), (0.78, 0.17, 0.05))[0]
            sentences = [self.sentence() for _ in range(count)]
            if not any(normalized(sentence) in _HELD_OUT for sentence in sentences):
                return " ".join(sentences)

    def sentence(self) -> str:
        """One sentence with its final mark."""
        shapes: tuple[tuple[Callable[[], str], float], ...] = (
            (self._statement, 0.27), (self._question, 0.11), (self._exclamation, 0.05), (self._compound, 0.11),
            (self._list, 0.06), (self._numeric, 0.12), (self._short, 0.06), (self._salad, 0.19), (self._spelling, 0.03),
        )  # fmt: skip
        shape = self._r.choices([s for s, _ in shapes], [w for _, w in shapes])[0]
        text = shape().replace("\u00a0", " ")
        return text[0].upper() + text[1:]

    # ---- words
    def _pick(self, words) -> str:
        return self._r.choice(words)

    def _chance(self, p: float) -> bool:
        return self._r.random() < p

    def _dictionary_word(self) -> str:
        return self._pick(self._r.choices(self._bands, (0.2, 0.3, 0.25, 0.25))[0])

    def _noun(self) -> str:
        return self._dictionary_word() if self._chance(0.22) else self._pick(_NOUNS)

    def _adjective(self) -> str:
        return self._dictionary_word() if self._chance(0.12) else self._pick(_ADJECTIVES)

    def _name(self) -> str:
        roll = self._r.random()
        if roll < 0.55:
            return self._pick(_NAMES)
        if roll < 0.8:
            return f"{self._pick(_NAMES)} {self._surname()}"
        return f"{self._pick(_TITLES)} {self._surname()}"

    def _surname(self) -> str:
        if self._chance(0.4):
            return self._pick([w for w in self._r.choices(self._bands[3], k=8) if "'" not in w] or _SURNAMES)
        return self._pick(_SURNAMES)

    def _place(self) -> str:
        return self._pick(_PLACES) if self._chance(0.8) else self._pick(self._bands[2])

    def _verb(self, form: int, transitive: bool) -> str:
        return self._pick(_TRANSITIVE if transitive else _INTRANSITIVE).split("/")[form]

    # ---- phrases
    def _noun_phrase(self) -> tuple[str, bool]:
        """A noun phrase and whether it is plural."""
        adjective = f"{self._adjective()} " if self._chance(0.45) else ""
        if self._chance(0.2):
            adjective = f"{self._pick(_ADVERBS) if self._chance(0.3) else 'very'} {self._adjective()} "
        noun = self._noun()
        if self._chance(0.3) and noun not in _NO_PLURAL and "'" not in noun:
            return f"{self._pick(_PLURAL_DETERMINERS)} {adjective}{_plural(noun)}", True
        determiner = self._pick(_DETERMINERS)
        if self._chance(0.07):
            determiner = f"{self._pick(_NAMES)}'s"
        phrase = adjective + noun
        return (_article(phrase) if determiner == "a" else f"{determiner} {phrase}"), False

    def _subject(self) -> tuple[str, str]:
        """A subject and its number: "i", "s" (third person singular) or "p"."""
        roll = self._r.random()
        if roll < 0.3:
            pronoun = self._pick(_SUBJECTS)
            return pronoun, "i" if pronoun == "I" else "p" if pronoun in ("you", "we", "they") else "s"
        if roll < 0.45:
            return self._name(), "s"
        if roll < 0.5:
            return f"{self._name()} and {self._name()}", "p"
        phrase, plural = self._noun_phrase()
        return phrase, "p" if plural else "s"

    def _object(self) -> str:
        roll = self._r.random()
        if roll < 0.15:
            return self._pick(_OBJECTS)
        if roll < 0.25:
            return self._name()
        return self._noun_phrase()[0]

    def _where(self) -> str:
        if self._chance(0.2):
            return f"in {self._place()}"
        return f"{self._pick(_PREPOSITIONS)} {self._noun_phrase()[0]}"

    def _predicate(self, number: str) -> str:
        be = {"i": "am", "s": "is", "p": "are"}[number]
        was = "were" if number == "p" else "was"
        have = "has" if number == "s" else "have"
        do = "doesn't" if number == "s" else "don't"
        present = 1 if number == "s" else 0
        transitive = self._chance(0.6)
        tail = f" {self._object()}" if transitive else ""
        if self._chance(0.4):
            tail += f" {self._where()}"
        if self._chance(0.25):
            tail += f" {self._pick(_ADVERBS)}"
        roll = self._r.random()
        if roll < 0.36:
            return self._verb(2, transitive) + tail
        if roll < 0.52:
            return self._verb(present, transitive) + tail
        if roll < 0.6:
            return f"{be} {self._verb(3, transitive)}{tail}"
        if roll < 0.65:
            return f"{was} {self._verb(3, transitive)}{tail}"
        if roll < 0.76:
            modal = self._pick("will would can could should might must may won't can't shouldn't couldn't".split())
            return f"{modal} {self._verb(0, transitive)}{tail}"
        if roll < 0.81:
            return f"{self._pick([do, 'didn' + chr(39) + 't'])} {self._verb(0, transitive)}{tail}"
        if roll < 0.86:
            want = self._pick("want need try like hope have".split())
            if number == "s":
                want = {"try": "tries", "have": "has"}.get(want, want + "s")
            return f"{want} to {self._verb(0, transitive)}{tail}"
        if roll < 0.93:
            adjective = self._adjective()
            degree = self._pick(["", "", "very ", "so ", "too ", "quite ", "not ", "never "])
            return f"{self._pick([be, was])} {degree}{adjective}"
        if roll < 0.97:
            return f"{self._pick([be, was])} {self._pick(['', 'still ', 'already '])}{self._where()}"
        return f"{have} {self._pick(['already', 'never', 'always', 'just'])} been {self._adjective()}"

    def _clause(self) -> str:
        subject, number = self._subject()
        if self._chance(0.15) and subject in ("I", "you", "he", "she", "it", "we", "they"):
            contraction = {"I": "I'm", "you": "you're", "we": "we're", "they": "they're"}.get(subject, f"{subject}'s")
            if self._chance(0.4):
                return f"{subject}'ll {self._verb(0, False)} {self._where()}"
            if self._chance(0.5):
                return f"{contraction} {self._verb(3, True)} {self._object()}"
            return f"{contraction} {self._adjective()}"
        return f"{subject} {self._predicate(number)}"

    # ---- sentence shapes
    def _statement(self) -> str:
        opener = f"{self._pick(_OPENERS)} " if self._chance(0.18) else ""
        return f"{opener}{self._clause()}."

    def _question(self) -> str:
        subject, number = self._subject()
        transitive = self._chance(0.6)
        tail = f" {self._object()}" if transitive else f" {self._where()}"
        roll = self._r.random()
        if roll < 0.3:
            helper = self._pick(["did", "does" if number == "s" else "do", "will", "can", "could", "would", "should"])
            return f"{helper} {subject} {self._verb(0, transitive)}{tail}?"
        if roll < 0.65:
            word = self._pick("why when where how how\u00a0often what who".split(" "))
            helper = self._pick(["did", "does" if number == "s" else "do", "can", "will", "should"])
            return f"{word} {helper} {subject} {self._verb(0, transitive)}{tail if self._chance(0.6) else ''}?"
        if roll < 0.78:
            be = {"i": "am", "s": "is", "p": "are"}[number]
            rest = self._pick([self._adjective(), self._where(), f"{self._verb(3, True)} {self._object()}"])
            return f"{be} {subject} {rest}?"
        if roll < 0.9:
            which = self._pick(["what kind of", "which", "how many", "whose"])
            noun = self._pick(_NOUNS)
            rest = self._pick(["do you like", "did you see", "is it", "was that", "should we take"])
            return f"{which} {_plural(noun) if which == 'how many' else noun} {rest}?"
        tag = self._pick(["isn't it", "don't you", "right", "didn't they", "doesn't she", "wasn't he", "okay"])
        return f"{self._clause()}, {tag}?"

    def _exclamation(self) -> str:
        roll = self._r.random()
        if roll < 0.35:
            return f"what {_article(self._adjective() + ' ' + self._noun())}!"
        if roll < 0.55:
            return f"how {self._adjective()}!"
        if roll < 0.8:
            opening = self._pick(["please ", "never ", "always ", "do not ", "", ""])
            return f"{opening}{self._verb(0, True)} {self._object()}!"
        return f"{self._clause()}!"

    def _compound(self) -> str:
        conjunction, roll = self._pick(_CONJUNCTIONS), self._r.random()
        if roll < 0.3:
            return f"{conjunction} {self._clause()}, {self._clause()}."
        if roll < 0.6:
            return f"{self._clause()} {conjunction} {self._clause()}."
        if roll < 0.85:
            return f"{self._clause()}, {self._pick(['and', 'but', 'so', 'or', 'yet'])} {self._clause()}."
        if roll < 0.93:
            return f"{self._clause()}; {self._clause()}."
        return f"{self._name()}, who {self._predicate('s')}, {self._predicate('s')}."

    def _list(self) -> str:
        count = self._r.randint(3, 5)
        maker = self._pick([self._noun, self._adjective, self._name, lambda: _plural(self._pick(_NOUNS)), self._place])
        items = [maker() for _ in range(count)]
        joined = (
            f"{', '.join(items[:-1])}{',' if self._chance(0.5) else ''} {self._pick(['and', 'and', 'or'])} {items[-1]}"
        )
        lead = self._pick(
            ["we need", "I like", "she bought", "there are", "choose between", "they saw", "he mentioned", "bring"]
        )
        return f"{lead} {joined}."

    def _salad(self) -> str:
        """Dictionary words in no order: coverage of sounds that grammar would not reach."""
        count = self._r.randint(3, 11)
        words = [self._dictionary_word() for _ in range(count)]
        if count > 6 and self._chance(0.5):
            words[self._r.randint(2, count - 3)] += ","
        return " ".join(words) + self._pick("..?!")

    def _spelling(self) -> str:
        letters = " ".join(self._pick(_LETTERS) for _ in range(self._r.randint(2, 6)))
        lead = self._pick(
            ["it is spelled", "the letters are", "press", "we call it", "my code is", "plan", "the group"]
        )
        return f"{lead} {letters.upper()}."

    # ---- numbers
    def _number(self) -> str:
        digits = self._r.choices((1, 2, 3, 4, 5, 6, 7, 9), (6, 8, 5, 4, 2, 2, 1, 1))[0]
        value = self._r.randint(0, 10**digits - 1)
        return " ".join(cardinal(value))

    def _small(self, low: int, high: int, spell=cardinal) -> str:
        return " ".join(spell(self._r.randint(low, high)))

    def _digits(self, count: int) -> str:
        return " ".join(self._small(0, 9) for _ in range(count))

    def _time(self) -> str:
        hour = self._small(1, 12)
        minute = self._r.choice(["o'clock", "o five", self._small(10, 59), "fifteen", "thirty", "forty five"])
        return f"{hour} {minute}{self._pick(['', '', ' A M', ' P M', ' in the morning', ' at night'])}"

    def _year(self) -> str:
        value = self._r.choice([self._r.randint(1500, 1999), self._r.randint(2001, 2040)])
        return " ".join(year(value))

    def _date(self) -> str:
        day = f"{self._pick(_MONTHS)} {self._small(1, 31, spell=ordinal)}"
        if self._chance(0.4):
            day += f", {self._year()}"
        return f"{self._pick(_DAYS)}, {day}" if self._chance(0.3) else day

    def _money(self) -> str:
        amount = self._number()
        if self._chance(0.4):
            return f"{amount} dollars and {self._small(2, 99)} cents"
        return f"{amount} {self._pick(['dollars', 'dollars', 'euros', 'pounds', 'million dollars', 'billion dollars'])}"

    def _numeric(self) -> str:
        noun, roll = self._noun(), self._r.random()
        if roll < 0.2:
            return (
                f"there {self._pick(['are', 'were'])} {self._number()} {_plural(self._pick(_NOUNS))} {self._where()}."
            )
        if roll < 0.35:
            return f"the {noun} {self._pick(['costs', 'cost', 'is worth'])} {self._money()}."
        if roll < 0.5:
            return f"{self._clause()} at {self._time()}."
        if roll < 0.65:
            return f"{self._clause()} on {self._date()}."
        if roll < 0.73:
            return f"in {self._year()}, {self._clause()}."
        if roll < 0.83:
            verb = self._pick(["takes", "weighs", "was", "lasts", "is about"])
            return f"it {verb} {self._number()} {self._pick(_UNITS)}."
        if roll < 0.88:
            return f"it is {self._number()} point {self._digits(self._r.randint(1, 3))} {self._pick(_UNITS)}."
        if roll < 0.94:
            return f"call {self._digits(3)}, {self._digits(4)}."
        return f"the {self._small(1, 100, spell=ordinal)} {noun} {self._predicate('s')}."

    def _short(self) -> str:
        return self._pick(_SHORT)
