"""Words that the generators draw from; the four lists share none."""

# Made up. The first rows are one token each for most tokenizers, the others several; all begin with
# a consonant, so that the article is always "a".
_NOUNS = """
    bif blem brom dop dex fid fum gir glor gren kel kar lod lum mim mur nug pir plag raz trem tul
    tob viv wob
    braffle crindle dorvit fendrick flonter gavlin glimmock hibbet jalder jorvel klandor klippet
    lurrick mizzel morquin nalbet noffin pandrel pelvock plinset quandle quorrel ristle sarnick
    skorbin slintor snavel sprock tandrel thorvick trellock twindel vandrick velmet vintle vorpin
    wazzle welkit whindle yarrick yondel zandle zefrin zintock zomber
"""
NOUNS: tuple[str, ...] = tuple(_NOUNS.split())

_NAMES = """
    Anna Ben Clara David Emma Frank Grace Henry Iris Jack Kate Leo Mary Max Nick Olga Paul Rosa Sam
    Simon Tina Tom Victor Wendy
"""
NAMES: tuple[str, ...] = tuple(_NAMES.split())

# One theory uses one adjective of a family at most, so that nothing contradicts it by accident.
FAMILIES: dict[str, tuple[str, ...]] = {
    "age": ("old", "young"),
    "brightness": ("bright", "dark", "dim"),
    "cleanliness": ("clean", "dirty"),
    "colour": ("red", "blue", "green", "yellow", "brown"),
    "loudness": ("loud", "quiet"),
    "moisture": ("wet", "dry"),
    "mood": ("happy", "sad", "angry", "calm"),
    "shape": ("round", "flat", "square"),
    "size": ("big", "small", "tiny", "huge"),
    "speed": ("fast", "slow"),
    "taste": ("sweet", "sour", "bitter", "salty"),
    "temperature": ("hot", "cold", "warm", "cool"),
    "texture": ("soft", "hard", "smooth", "rough"),
    "weight": ("heavy", "light"),
}

_COMMON_WORDS = """
    air animal apple arm army art baby back bag ball bank base bath bay beach bear bed bell
    bird block blood boat body bone book bottle bottom box boy branch bread bridge brother building
    bus business butter button cake camera camp car card cat cell center chair chance change cheese
    child church circle city class clock cloth cloud coat coffee company corn corner cotton country
    cow crowd cup day desk dinner doctor dog dollar door dream dress drink dust ear earth edge egg
    engine evening eye face fact family farm father field finger fire fish floor flower food foot
    forest fork friend fruit game garden gate girl glass gold grass ground group guitar hair hand
    hat head heart hill history hole home horse hospital hour house ice idea iron island job juice
    key king kitchen knee knife lake lamp land law leaf leg letter library line lion lip list luck
    machine man map market meal meat metal milk mind minute mirror money month moon morning mother
    mountain mouse mouth music name neck nest news night noise nose number ocean office oil orange
    page paint paper park party pen pencil picture piece plane plant plate pocket poem point
    pool potato prize queen radio rain ring river road rock roof room root rope rose salt
    sand school sea season seat seed sheep ship shirt shoe shop shoulder silver sister skin sky
    sleep smile snow soap soil son song sound soup space spoon spring stage star station
    stone store storm story street student sugar summer sun table tail tea teacher team test thing
    ticket time tongue tooth top town toy train tree truck uncle valley village voice wall watch
    water way week wheel wind window winter woman wood world year
"""
COMMON_WORDS: tuple[str, ...] = tuple(_COMMON_WORDS.split())
