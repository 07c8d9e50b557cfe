"""The speech queue: pushed text → turns → units at places of the stream's transcript.

Text goes in from any thread and waits unread. When a chunk begins, what waits is sealed (:meth:`Speech.seal`):
the chunk sees that and nothing that comes later. The thread that makes it reads a little of the text and appends
what is ready to the stream (:meth:`Speech.feed`); after the chunk it learns where speech has come to
(:meth:`Speech.arrived`).

The next turn's units are appended once the turn before has ended, so that a chunk belongs to one turn.
"""
from __future__ import annotations

import copy
import dataclasses
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, Protocol

from .errors import StateError
from .heard import Ledger, TurnText
from .orchestrator.transcript import Transcript, TranscriptUpdate
from .orchestrator.units import END, PAUSE_SHORT, is_pause
from .timeline import Reached, SpokenUnit, WrittenWord

LOOKAHEAD = 24  # units ahead of the pointer that let speech flow; with fewer, an END must follow
_APPENDED = 64  # units kept ahead in the stream; the rest waits here, where it is cheap
_PIECE = 256  # characters read at a time, so that no chunk waits for a long text
_PATIENCE = 1  # chunks that a character at rest waits for an unfinished text to go on
_LONGEST_COMMA = 12  # half-frames: in longer ones the model makes up sounds
_USUAL_PAUSE, _LONGEST_PAUSE = 0.5, 10.0  # seconds, of the tag [pause]
_OF_THE_SESSION = frozenset({"_make_transcript", "_limit", "_warn", "_is_known_cue", "_shared", "_lock"})

Emit = Callable[..., None]


class UnitStream(Protocol):
    """What of a stream's state the queue works on."""

    pointer: int
    holds: dict[int, int]  # by place: half-frames of the next chunks for which its unit lasts

    @property
    def pending(self) -> int: ...
    def append_units(self, units: Sequence[tuple[int, int, bool]]) -> range: ...
    def drop_after(self, place: int) -> None: ...


@dataclass(frozen=True, slots=True)
class CueCall:
    """A cue, from a tag in the text or a call."""

    name: str
    strength: float = 1.0
    duration: float | None = None  # seconds
    text_offset: int = 0


class ArrivedCue(NamedTuple):
    cue: CueCall
    turn_id: int
    pts: int


class Arrival(NamedTuple):
    """What happened in a chunk."""

    turn_id: int  # of the turn that was spoken, or was last
    started: int | None  # pts of the turn's first unit
    ended: int | None  # pts of the turn's end
    cues: tuple[ArrivedCue, ...]


class _Token(NamedTuple):
    unit: int
    stress: int
    word_start: bool
    word: WrittenWord | None
    number: int
    char_end: int


class _Pause(NamedTuple):
    seconds: float


FLUSH: Final = object()  # what an inbox holds for flush()
_Entry = str | CueCall | Iterator[str] | object


@dataclass
class _Turn:
    id: int
    transcript: Transcript
    inbox: deque[_Entry] = field(default_factory=deque)  # what was pushed and not read; guarded by the queue's lock
    waiting: int = 0  # characters in the inbox
    ended: bool = False  # end_turn() was called
    sealed: int = 0  # entries of the inbox that the chunk under way may read
    sealed_end: bool = False  # whether that chunk knows that the turn has ended
    text: str = ""  # what has been read; kept whole while the turn may be cut
    spoken_until: int = 0  # offset of the first character that is not spoken yet
    ready: deque[_Token | _Pause | CueCall] = field(default_factory=deque)
    units_ready: int = 0
    units_read: int = 0
    word: WrittenWord | None = None  # the last one read
    flushed: bool = False
    complete: bool = False  # all of the text has been read
    started: bool = False
    end_place: int | None = None

    @property
    def unspoken_length(self) -> int:
        return len(self.text) - self.spoken_until + self.waiting

    @property
    def has_unspoken(self) -> bool:
        """Whether text other than white space is left."""
        waiting = (entry.strip() for entry in self.inbox if isinstance(entry, str))
        return bool(self.text[self.spoken_until :].strip()) or any(waiting)

    @property
    def whole_text(self) -> str:
        """What was pushed; of a stream that is being drawn, what was drawn."""
        return self.text + "".join(entry for entry in self.inbox if isinstance(entry, str))


class Speech:
    """Turns of one stream.

    Args:
        make_transcript: a new text front end for a turn.
        limit: characters that may wait to be spoken.
        warn: called as ``warn(**details)`` where text cannot be spoken as written.
        is_known_cue: whether the character can act on a cue of that name.
        shared: objects that clones share instead of copying.
        first_turn: number of the next turn.
        last_turn: number of the turn before; None: ``first_turn - 1``.
    """

    def __init__(
        self,
        make_transcript: Callable[[], Transcript],
        *,
        limit: int,
        warn: Emit,
        is_known_cue: Callable[[str], bool],
        shared: tuple[Any, ...] = (),
        first_turn: int = 1,
        last_turn: int | None = None,
    ) -> None:
        self._make_transcript = make_transcript
        self._limit = limit
        self._warn = warn
        self._is_known_cue = is_known_cue
        self._shared = shared
        self._lock = threading.RLock()
        self._queue: deque[_Turn | CueCall] = deque()
        self._sealed = 0  # entries of the queue that the chunk under way may take
        self._ledger = Ledger()
        self._next_turn = first_turn
        self._last_turn = first_turn - 1 if last_turn is None else last_turn  # the turn spoken, or the last one
        self._units: dict[int, SpokenUnit] = {0: SpokenUnit(END, 0)}  # by place; a stream begins at an END
        self._last_place = 0
        self._last_spoken = -1  # the last place that is not an END
        self._stall: int | None = None  # an END that gives way when more text comes in time
        self._cues: deque[tuple[int, int, CueCall]] = deque()  # (place, turn, cue) that speech has not come to
        self._acted = 0  # of those, how many take effect already
        self._pause: tuple[int, float] | None = None  # an END that is held, and for how many seconds
        self._pause_since: int | None = None
        self.waited = 0  # chunks for which a character at rest has waited for an unfinished text to go on

    # ------------------------------------------------------------ input: any thread
    def push(self, text: str) -> None:
        """Adds text to the open turn, or opens one.

        Raises:
            StateError: if more than ``limit`` characters would wait; nothing is added then.
        """
        with self._lock:
            waiting = self._pending_length()
            if waiting + len(text) > self._limit:
                raise StateError(
                    f"{len(text)} characters do not fit: {waiting} wait and max_pending_text is {self._limit}",
                    hint="generate chunks first, raise max_pending_text, or use push_stream()",
                )
            self._put(text)

    def lift_limit(self) -> None:
        """Takes all text from now on."""
        self._limit = sys.maxsize

    @property
    def has_text(self) -> bool:
        """Whether text other than white space waits to be spoken."""
        with self._lock:
            return any(turn.has_unspoken for turn in self._queue if isinstance(turn, _Turn))

    @property
    def room(self) -> int:
        """How many more characters may wait."""
        with self._lock:
            return max(0, self._limit - self._pending_length())

    def hold(self, source: Iterator[str]) -> None:
        """Adds a stream whose pieces are drawn when speech needs them."""
        with self._lock:
            self._open_turn().inbox.append(source)

    def cue(self, cue: CueCall) -> None:
        """Places a cue where the text stands now."""
        with self._lock:
            turn = self._open()
            (self._queue if turn is None else turn.inbox).append(cue)

    def flush(self) -> None:
        with self._lock:
            turn = self._open()
            if turn is not None:
                turn.inbox.append(FLUSH)

    def end_turn(self) -> int:
        """Ends the open turn, or an empty one; returns its id."""
        with self._lock:
            turn = self._open_turn()
            turn.ended = True
            return turn.id

    def unspoken(self, pts: int) -> list[TurnText]:
        """Turns that are not over in the chunks before ``pts``, cut at the words that begin in those."""
        with self._lock:
            return [*self._ledger.given(pts), *self._unopened()]

    def unheard(self, pts: int) -> list[TurnText]:
        """Turns that are not over at ``pts``, cut at the words that were heard whole by then."""
        with self._lock:
            return [*self._ledger.heard(pts), *self._unopened()]

    def _unopened(self) -> list[TurnText]:
        waiting = (turn for turn in self._queue if isinstance(turn, _Turn) and not self._ledger.knows(turn))
        return [TurnText(turn.id, "", turn.whole_text) for turn in waiting]

    @property
    def next_turn(self) -> int:
        return self._next_turn

    @property
    def turn_id(self) -> int:
        """The turn that is spoken, or was last; 0 before the first one."""
        return self._last_turn

    def _pending_length(self) -> int:
        return sum(turn.unspoken_length for turn in self._queue if isinstance(turn, _Turn))

    def _put(self, text: str) -> None:
        if text:
            turn = self._open_turn()
            turn.inbox.append(text)
            turn.waiting += len(text)

    def _open(self) -> _Turn | None:
        last = self._queue[-1] if self._queue else None
        return last if isinstance(last, _Turn) and not last.ended else None

    def _open_turn(self) -> _Turn:
        turn = self._open()
        if turn is None:
            turn = _Turn(self._next_turn, self._make_transcript())
            self._next_turn += 1
            self._queue.append(turn)
        return turn

    # ------------------------------------------------------------ before a chunk: the thread that steps
    def seal(self) -> None:
        """The chunk that begins sees what has come until now, and nothing that comes later."""
        with self._lock:
            self._sealed = len(self._queue)
            for turn in self._queue:
                if isinstance(turn, _Turn):
                    turn.sealed, turn.sealed_end = len(turn.inbox), turn.ended

    def feed(self, state: UnitStream, planned: range, sample_rate: int) -> None:
        """Reads text and appends the units that may be spoken now; sees to it that an END follows them.

        Args:
            planned: when the half-frames sound that are planned next, in samples.
        """
        if self._stall is not None and state.pointer < self._stall:
            state.drop_after(self._stall - 1)
            self._last_place = self._stall - 1
            del self._units[self._stall]
        self._stall = None
        turn = self._next_in_queue()
        if turn is None:
            return
        self._last_turn = turn.id
        if self._pause is not None and not self._leave_pause(state, planned, sample_rate):
            return
        self._read(turn, _APPENDED)
        ahead = self._last_spoken - state.pointer
        if not turn.complete and ahead + turn.units_ready < LOOKAHEAD and not self._may_start(turn, ahead >= 0):
            return
        self._append_ready(turn, state, planned, sample_rate)
        if self._pause is not None:
            return
        if turn.complete and not turn.ready:
            turn.end_place = self._append_end(state, turn.id)
        elif self._last_spoken - state.pointer < LOOKAHEAD and not turn.ready:
            last = self._last_place
            end = self._append_end(state, turn.id)
            self._stall = end if end != last else None  # an END that was there already stays

    def speaking(self, state: UnitStream) -> bool:
        """Whether something other than an END is being spoken or lies ahead."""
        return self._last_spoken >= state.pointer

    def at_rest(self, state: UnitStream) -> bool:
        """Whether chunks made now depend on no text and no cue: nothing is spoken, held or about to take effect."""
        with self._lock:
            return not self.speaking(state) and self._pause is None and not self._cues and not self.ending

    @property
    def ending(self) -> bool:
        """Whether the turn needs one more chunk, to say that it has ended."""
        with self._lock:
            first = self._queue[0] if self._queue else None
            return isinstance(first, _Turn) and first.end_place is not None

    def acting_cues(self, pointer: int, reach: int) -> list[CueCall]:
        """Cues that a chunk should show: those that speech comes to within ``reach`` units. Each is given once."""
        found = []
        while self._acted < len(self._cues) and self._cues[self._acted][0] <= pointer + reach:
            found.append(self._cues[self._acted][2])
            self._acted += 1
        return found

    def _next_in_queue(self) -> _Turn | None:
        """The turn to speak; cues that stand before it take their place."""
        with self._lock:
            while self._sealed and isinstance(self._queue[0], CueCall):
                self._sealed -= 1
                self._place_cue(self._queue.popleft(), self._last_turn, self._last_place)
            turn = self._queue[0] if self._sealed else None
            if turn is not None:
                self._ledger.open(turn)
            return turn

    def _leave_pause(self, state: UnitStream, planned: range, sample_rate: int) -> bool:
        """Leaves the end of the pause to the state, which holds its END to the half-frame, and lets units follow. False
        while that is further away than the next chunk."""
        if self._pause_since is None:
            return False
        place, seconds = self._pause
        left = max(0, -((planned.start - self._pause_since - round(seconds * sample_rate)) // planned.step))
        if left >= len(planned):
            return False
        self._pause = self._pause_since = None
        state.holds[place] = left
        return True

    def _may_start(self, turn: _Turn, speaking: bool) -> bool:
        """Whether to speak the little text that an unfinished turn has."""
        while not speaking and turn.ready and isinstance(turn.ready[0], CueCall):
            self._place_cue(turn.ready.popleft(), turn.id, self._last_place)
        if turn.units_ready == 0:
            return speaking
        last = next((entry for entry in reversed(turn.ready) if isinstance(entry, _Token)))
        if speaking or turn.flushed or is_pause(last.unit) and last.unit != PAUSE_SHORT:
            return True
        self.waited += 1
        return self.waited > _PATIENCE

    # ---- reading
    def _read(self, turn: _Turn, wanted: int) -> None:
        """Reads text until ``wanted`` units are ready or no text is left."""
        while turn.units_ready < wanted and not turn.complete:
            with self._lock:
                if not turn.sealed and not turn.sealed_end:
                    return
                entry = turn.inbox.popleft() if turn.sealed else None
                turn.sealed -= entry is not None
                if isinstance(entry, str):
                    if len(entry) > _PIECE:
                        turn.inbox.appendleft(entry[_PIECE:])
                        turn.sealed += 1
                        entry = entry[:_PIECE]
                    turn.waiting -= len(entry)
                    turn.text += entry
            if entry is None:
                turn.complete = True
                self._take(turn, turn.transcript.end_turn())
            elif isinstance(entry, str):
                turn.flushed = False
                self._take(turn, turn.transcript.push(entry))
            elif isinstance(entry, CueCall):
                self._take(turn, turn.transcript.flush())
                turn.ready.append(dataclasses.replace(entry, text_offset=len(turn.text)))
            elif entry is FLUSH:
                turn.flushed = True
                self._take(turn, turn.transcript.flush())
            else:
                self._draw(turn, entry)

    def _draw(self, turn: _Turn, source: Iterator[str]) -> None:
        """Takes the next piece of a held stream. No lock is held: the stream may take its time, or push text."""
        piece = next(source, None)
        if piece is None:
            return
        with self._lock:
            turn.inbox.extendleft((source, piece))
            turn.sealed += 2
            turn.waiting += len(piece)

    def _take(self, turn: _Turn, update: TranscriptUpdate) -> None:
        for warning in update.warnings:
            text = turn.text[warning.char_begin : warning.char_end]
            self._warn(kind="script", script=warning.script, text=text, text_offset=warning.char_begin, turn_id=turn.id)
        cues = deque(update.cues)
        for token in update.tokens:
            while cues and cues[0].token_index <= turn.units_read:
                self._take_tag(turn, cues.popleft())
            number = 0
            word = None
            if token.word_index >= 0:
                span = (token.char_begin, token.char_end)
                word = turn.word
                if word is None or (word.begin, word.end) != span:
                    text = turn.text[span[0] : span[1]]
                    word = turn.word = WrittenWord(text, *span)
                number = word.units
                word.units += 1
            turn.ready.append(_Token(token.unit, token.stress, token.word_start, word, number, token.char_end))
            turn.units_ready += 1
            turn.units_read += 1
        for cue in cues:
            self._take_tag(turn, cue)

    def _take_tag(self, turn: _Turn, tag: Any) -> None:
        if tag.name == "pause":
            turn.ready.append(_Pause(_USUAL_PAUSE if tag.value is None else min(max(0.0, tag.value), _LONGEST_PAUSE)))
            return
        if not self._is_known_cue(tag.name):
            self._warn(kind="cue", name=tag.name, text_offset=tag.char_begin, turn_id=turn.id)
        strength = 1.0 if tag.value is None else min(max(tag.value, 0.0), 1.0)
        turn.ready.append(CueCall(tag.name, strength, None, tag.char_begin))

    # ---- appending
    def _append_ready(self, turn: _Turn, state: UnitStream, planned: range, sample_rate: int) -> None:
        while turn.ready and self._last_spoken - state.pointer < _APPENDED:
            entry = turn.ready.popleft()
            if isinstance(entry, CueCall):
                self._place_cue(entry, turn.id, self._last_place + 1)
            elif isinstance(entry, _Pause):
                if entry.seconds > 0 and not self._append_pause(turn, entry.seconds, state, planned, sample_rate):
                    return
            else:
                turn.units_ready -= 1
                self._append_unit(entry, turn.id, state)
        self.waited = 0

    def _append_pause(
        self, turn: _Turn, seconds: float, state: UnitStream, planned: range, sample_rate: int
    ) -> bool:
        """Appends a pause; whether units may follow at once.

        A short one, with words behind it, is commas that are held for its time, none longer than commas are. The others
        are an END, which the model knows as the last unit in sight only: units follow when the pause is nearly over.
        Short is less than two chunks: when an END at the end of a chunk began is told a chunk late.
        """
        half_frames = -(-round(seconds * sample_rate) // planned.step)
        if turn.units_ready and half_frames < 2 * len(planned):
            self._append_short_pause(turn, half_frames, state)
            return True
        place = self._append_end(state, turn.id)
        held = state.holds.pop(place, 0) * planned.step / sample_rate
        self._pause = (place, held + seconds)
        self._pause_since = planned.start if place <= state.pointer else None
        return self._leave_pause(state, planned, sample_rate)

    def _append_short_pause(self, turn: _Turn, half_frames: int, state: UnitStream) -> None:
        place = self._last_place
        if self._units[place].unit == END:  # speech stands there
            state.holds[place] = state.holds.get(place, 0) + half_frames
            return
        for begin in range(0, half_frames, _LONGEST_COMMA):
            if place in state.holds or not is_pause(self._units[place].unit):
                place = self._append_unit(_Token(PAUSE_SHORT, 0, False, None, 0, 0), turn.id, state)
            state.holds[place] = min(_LONGEST_COMMA, half_frames - begin)

    def _append_unit(self, token: _Token, turn_id: int, state: UnitStream) -> int:
        (place,) = state.append_units([(token.unit, token.stress, token.word_start)])
        self._units[place] = SpokenUnit(token.unit, turn_id, token.word, token.number)
        self._last_place = self._last_spoken = place
        return place

    def _append_end(self, state: UnitStream, turn_id: int) -> int:
        if self._units[self._last_place].unit != END:
            (self._last_place,) = state.append_units([(END, 0, False)])
            self._units[self._last_place] = SpokenUnit(END, turn_id)
        return self._last_place

    def _place_cue(self, cue: CueCall, turn_id: int, place: int) -> None:
        self._cues.append((place, turn_id, cue))

    # ------------------------------------------------------------ after a chunk
    def unit_at(self, place: int) -> SpokenUnit:
        """What stands at a place of the transcript that has not been forgotten."""
        return self._units[place]

    def arrived(self, pts: int, before: int, place: int, reached: Sequence[Reached]) -> Arrival:
        """Takes note of where speech has come to.

        Args:
            pts: the chunk's time.
            before: where speech stood at the beginning of the chunk.
            place: where it stands at the end.
            reached: the places that it came to within the chunk.
        """
        def time_of(wanted: int) -> int:
            return next((entry.pts for entry in reached if entry.place >= wanted), pts)

        started = ended = None
        with self._lock:
            turn = self._queue[0] if self._queue else None
            turn = turn if isinstance(turn, _Turn) else None
            for entry in reached:
                unit = self._units[entry.place]
                self._leave_words(before, entry, pts)
                before = entry.place
                if turn is not None and unit.turn_id == turn.id:
                    if unit.unit != END and not turn.started:
                        turn.started, started = True, entry.pts
                    if unit.word is not None and unit.word.end > turn.spoken_until:
                        turn.spoken_until = unit.word.end
                        self._ledger.word_begins(turn, entry.pts, pts, unit.word.end)
            if self._pause is not None and self._pause_since is None and place >= self._pause[0]:
                self._pause_since = time_of(self._pause[0])
            if turn is not None and turn.end_place is not None and place >= turn.end_place:
                ended = time_of(turn.end_place)
                started = ended if not turn.started else started
                self._queue.popleft()
                self._sealed = max(0, self._sealed - 1)
                self._ledger.turn_is_over(turn, ended, pts)
            cues = []
            while self._cues and self._cues[0][0] <= place:
                cue_place, turn_id, cue = self._cues.popleft()
                self._acted = max(0, self._acted - 1)
                cues.append(ArrivedCue(cue, turn_id, time_of(cue_place)))
        return Arrival(self._last_turn, started, ended, tuple(cues))

    def forget_before(self, place: int, pts: int) -> None:
        """Forgets units before ``place`` and what was heard before ``pts``: nobody will ask for them."""
        with self._lock:
            self._ledger.forget_before(pts)
        for old in [p for p in self._units if p < place and p != self._last_place]:
            del self._units[old]

    def _leave_words(self, before: int, entry: Reached, chunk_pts: int) -> None:
        """Words between the place before and the one that is reached now have been spoken to their end."""
        following = self._units[entry.place].word
        for place in range(before, entry.place):
            unit = self._units[place]
            if unit.word is not None and unit.word is not following:
                turn = self._ledger.turn(unit.turn_id)
                if turn is not None:
                    self._ledger.word_is_over(turn, entry.pts, chunk_pts, unit.word.end)

    # ------------------------------------------------------------ copies
    def after_cut(self, last_turn: int, stands_at: int) -> Speech:
        """An empty queue whose turns' numbers go on; the stream stands at an END at place ``stands_at``."""
        with self._lock:
            other = Speech(
                self._make_transcript, limit=self._limit, warn=self._warn, is_known_cue=self._is_known_cue,
                shared=self._shared, first_turn=self._next_turn, last_turn=last_turn,
            )  # fmt: skip
        other._units = {stands_at: SpokenUnit(END, last_turn)}
        other._last_place = stands_at
        return other

    def clone(self, memo: dict[int, Any] | None = None) -> Speech:
        """An independent queue with the same content.

        Args:
            memo: ``copy.deepcopy``'s, for copies of other things that share words with the queue.

        Raises:
            StateError: while a stream of text is being drawn, which cannot be copied.
        """
        with self._lock:
            for turn in self._queue:
                if isinstance(turn, _Turn) and any(isinstance(entry, Iterator) for entry in turn.inbox):
                    raise StateError("a push_stream() is still being drawn", hint="let it be spoken first")
            other = copy.copy(self)
            memo = {} if memo is None else memo
            memo.update((id(thing), thing) for thing in (*self._shared, FLUSH))
            # One deepcopy, so that units and turns go on sharing their words.
            other._queue, other._units, other._cues, other._ledger = copy.deepcopy(
                (self._queue, self._units, self._cues, self._ledger), memo
            )
        other._lock = threading.RLock()
        return other

    def new_transcript(self) -> Transcript:
        """A text front end as the turns of this queue have it."""
        return self._make_transcript()

    def content(self) -> dict[str, Any]:
        """All that the queue has not got from its session, itself and not a copy; see ``fill``."""
        return {name: value for name, value in vars(self).items() if name not in _OF_THE_SESSION}

    def fill(self, content: Mapping[str, Any]) -> None:
        """Replaces the content.

        Raises:
            ValueError: where it is not as ``content`` gives it.
        """
        if set(content) != set(self.content()):
            raise ValueError(f"a text queue of {sorted(content)}")
        with self._lock:
            vars(self).update(content)

    def adopt(self, warn: Emit, next_turn: int) -> None:
        """Makes a clone a session's own: its warnings go there, and turn numbers are not used twice."""
        self._warn = warn
        self._next_turn = max(self._next_turn, next_turn)
