"""Hold the texts of the demo, in English and Japanese."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class DemoTexts:
    """What the demo says in one language. A heading belongs to one step."""

    introduction: str
    ask: str
    question: str
    reply: str
    killed: str
    recover: str
    resume: str
    search: str
    alter: str
    altered_text: str
    window: str
    end: str


FOLLOW_UP = "雨の日は、どこで紅葉を見られますか。"
FOLLOW_UP_REPLY = "東福寺の通天橋には屋根があり、雨の日も紅葉を見られます。"
SEARCH = "紅葉"
DEVELOPER_PROMPT = "You are a travel guide. Answer in the language of the question."
ENGLISH = DemoTexts(
    introduction="A scripted model answers, so no key and no network are needed. Everything is in the folder {folder}.",
    ask="Ask a question. The process kills itself in the middle of the reply.",
    question="Plan one autumn day in Kyoto.",
    reply=(
        "Be at Kiyomizu-dera at eight, before the crowds. Walk down Sannenzaka, and stop for tea and soba. "
        "In the afternoon, see the maples from the bridge of Tofuku-ji. End at Nishiki market, where it smells best."
    ),
    killed="killed with kill -9",
    recover="The question and the first part of the reply are in the database.",
    resume="The next process finishes the reply, and answers a further question. The model gets the whole conversation.",
    search="Search works in every script: two Japanese characters find the messages.",
    alter="Somebody changes a stored reply behind the library's back. `verify` names the row.",
    altered_text="Stay at home.",
    window="The window explains itself: what the next request sends, what stays out, and why.",
    end="Run any of these commands again, or read {program}. `{demo}` starts from the beginning.",
)
JAPANESE = DemoTexts(
    introduction="台本どおりに答えるモデルなので、APIキーもネットワークも要りません。ファイルは {folder} にあります。",
    ask="質問します。返答の途中で、プロセスは自分を強制終了します。",
    question="秋の京都を一日で回る計画を立ててください。",
    reply=(
        "朝八時、混む前の清水寺へ行きます。三年坂を下り、お茶とそばで一休みします。"
        "午後は東福寺の橋から紅葉を眺めます。夕方は錦市場で、いい匂いのする店に入りましょう。"
    ),
    killed="kill -9 で強制終了しました",
    recover="質問と、返答の初めの部分は、データベースに残っています。",
    resume="次のプロセスが返答を完成させ、続きの質問に答えます。モデルには会話の全体が渡ります。",
    search="検索は日本語にも対応します。二文字でも見つかります。",
    alter="保存された返答を、誰かがライブラリを通さずに書き換えます。verify は、その行を言い当てます。",
    altered_text="家にいましょう。",
    window="次のリクエストで何を送り、何を送らないか、その理由も表示します。",
    end="どのコマンドも、もう一度実行できます。プログラムは {program} です。{demo} で最初からやり直せます。",
)
LANGUAGES = {"en": ENGLISH, "ja": JAPANESE}
