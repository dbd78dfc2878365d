"""Texts that tokenizers trip over. All written for this purpose."""

TRAIN = [
    "The quick brown fox jumps over the lazy dog, and then the dog doesn't care: it's asleep.",
    "She said she'd come, but they're late; we've waited 12 minutes and I'll wait 345 more.",
    "THE HEADLINE SHOUTED: NOTHING HAPPENED TODAY. CamelCaseNames and snake_case_names differ.",
    "def area(width, height):\n    return width * height\n\nprint(area(3, 4))  # 12\n",
    "for (int i = 0; i < 10; i++) {\n\tsum += values[i];\n}\n\n\n",
    "Déjà vu : l'élève préféré mange une crème brûlée à Noël, où ça coûte 7 €.",
    "Größere Äpfel überraschen die Schüler; Straßenbahn, Fußgänger, Übung.",
    "今日は天気がいいです。明日も晴れるでしょう。東京へ行きます。",
    "我们今天去公园散步,天气很好。你好,世界!",
    "Привет, мир! Сегодня хорошая погода, и мы идём гулять.",
    "مرحبا بالعالم. هذا نص قصير باللغة العربية.",
    "안녕하세요 세계. 오늘은 날씨가 좋습니다.",
    "The year 2024 has 366 days, 1999 had 365; pi is 3.14159 and e is 2.71828.",
    "https://example.org/path?query=value&other=1#fragment or mail someone@example.org",
    "a  b   c    d     e      f\t\tg\n\nh\r\ni",
    "the the the there then them these those that this thing think thank",
    "hello hello world world low lower lowest new newer newest wide wider widest",
]

# Characters of every kind that the texts below combine; random texts are drawn from them.
ALPHABET = (list("abcdefghijklmnopqrstuvwxyzABCXYZ") + list("0123456789") * 2 + [" "] * 12 + ["  ", "   ", "\n", "\r\n", "\t", "'", "'s", "'LL", "'re"]
            + list(".,:;!?-_/\\()[]{}<>|@#$%^&*+=~`\"") + list("éèüßÅØæœñłşİıǅΩλσςЖяשםعربي") + list("日本語中文한국어ไทยहिन्दीქარᏣ")
            + ["\u0301", "\u0308", "\u0323", "\u200d", "\u200c", "\ufe0f", "\u180e", "\u00a0", "\u2003", "\u3000", "\u2028", "\u0085", "\u00ad", "\u200b", "\ufeff"]
            + list("½²ⅧⒶ①٣१𝟘") + ["😀", "👩\u200d👧", "🇫🇷", "👍🏽", "1\ufe0f\u20e3"] + list("。，、！？「」…—“”‘’ﬁＡ１") + ["▁", "Ġ", "<tag>", "<s>", "</s>", "<|end|>", "\x01", "\x7f"])

NASTY = [
    "", " ", "  ", "a", " a", "a ", "\n", "\r\n", "\r", "\t", "a\nb", "a\r\nb\r\n\r\nc", "\n\n\n a \n\n", " \n ", "   \n\n   x",
    "Hello world", "  leading", "trailing  ", "a  b   c    d", " " * 1000, "x" + " " * 1000 + "y", " " * 99 + "\n", "\t" * 50 + "x",
    "a" * 300, "ab" * 200, "the" * 60, "\n" * 64, "-" * 80, "=" * 33 + ">", "!?" * 40,
    "I'm you're he's we'd they'll it've DON'T I'M YOU'RE O'Neil 'twas rock'n'roll ''s ''''", "it\u2019s \u2018quoted\u2019",
    "1 12 123 1234 12345 1234567890 3.14 1,000,000 0x1F 1e10", "abc123def456", "12ab34", "Ⅷ ½ ² ³ ٣٤٥ १२३ 一二三 ①②", "7€5£3¥",
    "日本語のテキストです。", "中文没有空格", "日本 語 mixed 英語 text", "한국어 문장 입니다", "ไทยไม่มีช่องว่าง", "हिन्दी में लिखा",
    "Привет МИР", "Ελληνικά", "עברית עם ניקוד: שָׁלוֹם", "العَرَبِيَّة", "ქართული ᏣᎳᎩ ᚠᚢᚦ 𐎀𐎁 𓀀𓀁 𒀀",
    "😀", "😀😀😀", "👩‍👩‍👧‍👦", "🏳️‍🌈 👍🏽 🇫🇷🇩🇪", "a😀b", " 😀 ", "☃︎☃️", "1️⃣2️⃣",
    "cafe\u0301 e\u0301\u0301 a\u0308\u0323 a\u0323\u0308 \u0301start", "A\u030A Å \u212B ﬁ ﬀ Ω Ω K K", "x" + "\u0301" * 40,
    "\u1100\u1161\u11A8 각 \u1112\u1161\u11AB", "D\u0307\u0323 \u1E0C\u0307 q\u0307\u0323", "가\u11A8", "İstanbul ISPARTA ıi ẞß ΣΑΣ",
    "zero\u200bwidth\u200d\u2060 joiner", "\ufeffbom", "nbsp\u00a0here\u2003em\u3000wide\u2028line\u2029para\u0085nel", "soft\u00adhyphen", "byte\x01\x7f",
    "\u202ertl\u202c", "\ufffd replacement", "\U0010ffff\ue000 private", "control \x1b[31mred\x1b[0m",
    "CamelCase XMLHttpRequest iPhone McDONALD ALLCAPS lowerUPPER ǅ ǈungla", "snake_case __init__ _x_ a_b", "a/b/c \\\\path\\to C:\\x //comment\n//x\n/",
    "{\"key\": [1, 2, {\"n\": null}]}", "<div class=\"x\">text</div>", "f(x)=x^2+3*x-1;", "#include <stdio.h>\n\tint x;\n", "$100% #hashtag @user &amp;",
    "<|begin|>", "<|end|>", "a<|begin|>b", "<|begin|><|begin|>", "<|begin|> text <|end|>\n", "<|begin", "<|beg<|begin|>in|>", "<|BEGIN|>", "< |begin| >",
    "<s>x</s>", "</s>", "<s", "<unk>", "<0x41>", "<0xE2><0x96>", "▁", "▁▁a ▁b", "a▁b", "Ġ Ċ Ġa",
    "word<tag>word <tag> word<tag> x", "<tag>", " <tag>\n", "left  <left>  right", "a <right>  \n b", "both  <both>  c", "one<one>two <one> three <one>, <one>4 _<one>",
    "<one>", "é<one> <one>é", "<NORM> <norm> <Norm>x", "cafe\u0301tok café tok CAFÉTOK", "<think>hm</think> ok", "<think", "[INST] hi [/INST]",
    "unreachable unreachablex an unreachable", "hello hellow helloworld lowlower", "newest widest   lowest", "e", "é", "€", "\u00ff\u0100",
    "mixed: naïve café № 5 — “quotes” … • ™ © ≠ ≤ ∑ ∫ √ → ⇒", "a\u0300\u0301\u0302b", "\n \n  \n   \n", "x \r y \r\n z", "end with newline\n", "tab\tsep\tvalues\n1\t2\t3\n",
    "ᠮᠣᠩᠭᠣᠯ\u180eᠠ \u180e x", "½<one> Ⓐ<one> \u200d<one> e\u0301<one> Ⅷ<one>", "ＡＢＣ　１２３　ﬁ ﬂ", "co\u00adop re\u00ad\u00adtry \u00ad", "e\u0301\u0301 u\u0308x",
    "   many   blanks   between   words   ", " \u3000 wide \u3000\u3000 ", "<|user|>\n hi <|end|>  \n<|assistant|> \t", "12 345 6789 01234567 ١٢٣٤٥ 1,234.5", "don't DON'T we'Ve x'y 'S",
    "a. b.c ...d 。e，f、g (h|i) [j]", "#tag$x %y &z 'w (v) *u +t -s .r /q :p =o @n _m `l {k} |j ~i", "漢字かなカナ混じり123abc", "HTTPServer getHTTPResponseCode iOS", "mañana MAÑANA Mañana",
    "<one>xy <one>x <one>", "<right>   x", "<right> \n\n y", "<left>  <right>  <left>", "  <both> \t <both>  <right>", "tok toktok tok-tok", "a\vb\v\v c",
    "<|user|>\n Hello <|end|>\n<|assistant|>\n\n hm</s> \n<s> x<|endoftext|> \ny", "<|pair|>x <|pair|> x<|pair|>", "aB abCdEF a1B2", "x\u180e y\u0301 z\u24d0-\u0301", "\u0928\u093f-\u0928", "a&b||c~~d ^^ e`f $$", "aaaab", "12345678 1234 12",
    "The quick brown fox doesn't care: it's 12:30, and they're late. Größe überall; 東京 and Москва!\n\n  def f(x):\n      return x + 1\n",
]

# Broken UTF-8, and a NUL, as bytes.
BROKEN = [b"null\x00byte", b"\xff", b"a\xffb", b"\xc3", b"\xe6\x97", b"\xe6\x97 x", b"\xf0\x9f\x98", b"\xf0\x9f\x98a", b"\xc0\xaf", b"\xed\xa0\x80",
          b"\xf4\x90\x80\x80", b"\x80\x80\x80", b"ok\xe6\x97\xa5\xe6\x97ok", b"\xfe\xfe\xff\xff", b"\xe0\x80\xaf", b"\xf8\x88\x80\x80\x80", b"<|beg\xffin|>"]
