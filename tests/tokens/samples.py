"""Texts of every kind that the estimate is held to, and pools that random text is mixed from."""

from __future__ import annotations

FIXTURES: dict[str, str] = {
    "Japanese prose": "昨日は雨が降っていたので、家で本を読んで過ごしました。"
    "夕方になるとようやく空が明るくなり、近くの公園まで"
    "散歩に出かけました。"
    "池のそばでは子どもたちが楽しそうに遊んでいて、"
    "私はしばらくベンチに座ってそれを眺めていました。",
    "Japanese, technical": "非同期処理では、イベントループが待機中のタスクを監視し、"
    "入出力が完了した時点で対応する処理を再開する。"
    "例外が発生した場合は、"
    "呼び出し元へ伝播させるか、記録して再試行するかを明示的に選択しなければならない。",
    "kanji only": "東京都千代田区永田町一丁目七番一号国会議事堂内閣総理大臣官邸危機管理監補佐官会議資料",
    "katakana": "インターネットサービスプロバイダーの"
    "カスタマーサポートセンターにメールアドレスとパスワードをリセットするリクエスト",
    "Chinese": "今天天气很好，我们决定去公园散步。"
    "路上遇到了几位老朋友，"
    "大家一起坐下来喝茶聊天，谈到了最近的工作和生活。"
    "晚上回家以后，我把这些事情都写进了日记里。",
    "Korean": "어제는 비가 많이 와서 하루 종일 집에서 "
    "책을 읽었습니다. 저녁이 되자 하늘이 맑아져서 가까운 공원으로 산책을 "
    "나갔습니다. 아이들이 연못가에서 즐겁게 놀고 있었습니다.",
    "English": "Yesterday it rained for most of the day, so we stayed at home and read. "
    "Towards the evening the sky cleared, and we walked to the park nearby, where children were playing "
    "beside the pond. I sat down on a bench for a while and watched.",
    "Python": "def window(items: list[Item], *, available: int) -> Window:\n    total = 0\n    for index, item in "
    "enumerate(reversed(items)):\n        total += item.tokens\n        if total > available:\n            return "
    "Window(len(items) - index, total - item.tokens)\n    return Window(0, total)\n",
    "emoji": "👩‍👩‍👧‍👦🎉🚀 👍🏽🏳️‍🌈 😀😂🥲 ❤️🔥",
}
"""The classes that counts per character were measured for: one text each."""

COUNTS: dict[str, tuple[int, int, int]] = {
    "Japanese prose": (87, 113, 192),
    "Japanese, technical": (84, 112, 171),
    "kanji only": (39, 66, 89),
    "katakana": (37, 50, 99),
    "Chinese": (53, 87, 129),
    "Korean": (58, 86, 191),
    "English": (53, 53, 54),
    "Python": (67, 67, 73),
    "emoji": (30, 49, 54),
}
"""What they are in o200k_base, in cl100k_base, and for SmolLM2-135M: a small vocabulary, trained on little but English."""

POOLS: dict[str, tuple[str, ...]] = {
    "English": (
        "the",
        "of",
        "conversation",
        "therefore",
        "keyboard",
        "Wednesday",
        "rhythm",
        "don't",
        "McDonald",
        "USA",
    ),
    "German": ("Straßenbahn", "Überprüfung", "Geschwindigkeitsbegrenzung", "für", "wahrscheinlich", "schön", "Äpfel"),
    "French": ("aujourd'hui", "l'été", "français", "œuvre", "où", "élève", "peut-être", "grâce"),
    "Polish": ("chrząszcz", "źdźbło", "Łódź", "dziękuję", "wszystko", "późniejszy", "gęś"),
    "Finnish": ("käyttöliittymä", "ymmärtää", "järjestelmä", "päivää", "mahdollisuus", "yksityiskohtainen"),
    "Vietnamese": ("tiếng", "Việt", "nghiệp", "được", "những", "người", "trường", "không"),
    "Turkish": ("değiştirmek", "kullanıcı", "görüşürüz", "çalışıyor", "İstanbul", "teşekkürler"),
    "Japanese": (
        "会議",
        "について",
        "議論",
        "しました",
        "、",
        "プログラミング",
        "ありがとう",
        "検索",
        "憂鬱",
        "薔薇",
        "「はい」",
    ),
    "Chinese": ("我们", "讨论", "了", "数据库", "，", "谢谢", "龍", "體驗", "鑑於", "互联网", "饕餮"),
    "Korean": ("안녕하세요", "데이터베이스", "그리고", "읽었습니다", "좋아요", "꿰뚫다", "값을", "핥다"),
    "Russian": ("здравствуйте", "пожалуйста", "разработка", "который", "Щёлково", "объект", "ещё"),
    "Ukrainian": ("дякую", "з'їсти", "ґанок", "Київ", "розробник", "їжак"),
    "Greek": ("καλημέρα", "ευχαριστώ", "άνθρωπος", "Ελλάδα", "γλώσσα"),
    "Arabic": ("السلام", "عليكم", "البرمجة", "مستخدم", "شكرًا", "التطبيقات"),
    "Hebrew": ("שלום", "תודה", "משתמש", "ירושלים", "מסמכים"),
    "Hindi": ("नमस्ते", "धन्यवाद", "उपयोगकर्ता", "जानकारी", "क्योंकि", "हिन्दी"),
    "Thai": ("สวัสดี", "ขอบคุณ", "ผู้ใช้", "โปรแกรม", "ประเทศไทย", "เพราะว่า"),
    "emoji": ("😀", "👩‍👩‍👧‍👦", "🏳️‍🌈", "👍🏽", "🇯🇵", "🧑🏿‍🚀", "❤️", "1️⃣", "🫠", "⚙", "☃"),
    "code": (
        "self.items[0]",
        "x += 1;",
        "=>",
        "!==",
        "</div>",
        "__init__",
        "HTTPResponse",
        "a_b_c",
        "fn(x)",
        "/usr/bin",
        "#{id}",
    ),
    "white space": ("\n", "\n\n", "    ", "\t", "\t\t", "\r\n", "  ", " " * 23, "\n" * 5, "\u3000", "\u00a0"),
    "numbers": ("0", "42", "2026-11-23", "3.14159", "1,234,567", "0x7f", "12345678901234567890", "٣", "½"),
    "signs": ("—", "…", "“", "”", "·", "→", "€", "%", "***", "---", "§", "©", "═", "■"),
    "ids": (
        "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b",
        "550e8400-e29b-41d4-a716-446655440000",
        "dGhlIHF1aWNrIGJyb3duIGZveCBqdW1wcw==",
        "call_Xk29fQz7LmP0",
        "https://example.com/a/b?c=d&e=%20f",
    ),
}
"""Words as they are written, by language."""
UNSPACED = ("Japanese", "Chinese", "Thai", "emoji", "white space", "signs")
"""Where one word may follow the other at once."""
