"""Names that fields of training records go by, in the languages that such files are met in."""

from __future__ import annotations

import re
import unicodedata


def plain_name(name: str) -> str:
    """A field's name without case, accents, joiners and separators, so that spellings compare equal."""
    text = unicodedata.normalize("NFKD", name.casefold()).replace("đ", "d")
    text = text.replace("ي", "ی").replace("ك", "ک").replace("\u200c", "")
    text = "".join(char for char in text if not unicodedata.combining(char))
    return " ".join(re.findall(r"[^\W_]+", text))


def _names(*lines: str) -> tuple[str, ...]:
    return tuple(plain_name(name) for line in lines for name in line.split())


PROMPT = _names(
    "prompt question instruction query user input human request ask source src problem text1 sentence1",
    "q",
    "câu_hỏi hỏi yêu_cầu chỉ_dẫn đầu_vào",
    "پرسش سوال درخواست دستور ورودی",
    "pregunta consulta frage pergunta domanda вопрос 问题 問題 提问 指令 質問 질문 प्रश्न soru pertanyaan",
    "คำถาม",
)
RESPONSE = _names(
    "response answer output completion reply assistant target tgt gpt chosen solution summary",
    "text2 sentence2 a",
    "câu_trả_lời trả_lời đáp_án phản_hồi lời_đáp đầu_ra",
    "پاسخ جواب خروجی",
    "respuesta réponse antwort resposta risposta ответ 答案 回答 答え 답변 대답 उत्तर إجابة cevap",
    "yanıt jawaban คำตอบ",
)
EXTRA = _names(
    "context input passage document background", "ngữ_cảnh bối_cảnh متن زمینه contexto contexte kontext"
)
SYSTEM = _names("system system_prompt system_message")
MESSAGES = _names("messages conversations conversation dialog dialogue chat turns", "hội_thoại گفتگو مکالمه")
TEXT = _names("text content body", "văn_bản متن texto texte")
