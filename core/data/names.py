"""Names that fields of training records go by, in the languages that such files are met in."""

from __future__ import annotations

import re
import unicodedata

_HUMP = re.compile(r"(?<=[a-z\d])(?=[A-Z][a-z])")


def plain_name(name: str) -> str:
    """A field's name without case, accents, joiners and separators, so that spellings compare equal.

    `systemPrompt` is `system prompt`.
    """
    text = unicodedata.normalize("NFKD", _HUMP.sub(" ", name).casefold()).replace("đ", "d")
    text = text.replace("ي", "ی").replace("ك", "ک").replace("\u200c", "")
    text = "".join(char for char in text if not unicodedata.combining(char))
    return " ".join(re.findall(r"[^\W_]+", text))


def _names(*lines: str) -> tuple[str, ...]:
    return tuple(plain_name(name) for line in lines for name in line.split())


CLEAR_PROMPT = _names(
    "prompt question instruction query",
    "câu_hỏi hỏi yêu_cầu chỉ_dẫn",
    "پرسش سوال درخواست دستور",
    "pregunta consulta frage pergunta domanda вопрос 问题 問題 提问 指令 質問 질문 प्रश्न soru pertanyaan",
    "คำถาม سؤال",
)
PROMPT = CLEAR_PROMPT + _names(
    "user input human request ask source src problem text1 sentence1 q", "đầu_vào", "ورودی", "输入 入力 입력"
)
CLEAR_RESPONSE = _names(
    "response answer output completion reply",
    "câu_trả_lời trả_lời đáp_án phản_hồi lời_đáp",
    "پاسخ جواب",
    "respuesta réponse antwort resposta risposta ответ 答案 回答 答え 답변 대답 उत्तर إجابة cevap",
    "yanıt jawaban คำตอบ",
)
CHOSEN = _names("chosen preferred winner", "accepted")
RESPONSE = (
    CLEAR_RESPONSE
    + CHOSEN
    + _names(
        "assistant target tgt gpt solution summary text2 sentence2 a", "đầu_ra", "خروجی", "输出 出力 출력"
    )
)
REJECTED = _names(
    "rejected reject bad negative incorrect wrong worse worst loser losing dispreferred unpreferred",
    "nonpreferred nonchosen nonaccepted disliked undesirable distractor",
    "sai xấu",
    "نادرست بد",
)
"""A column with one of these words in its name is never proposed: it holds what is not to be learnt."""
EXTRA = _names(
    "context input passage document background paragraph article reference evidence knowledge excerpt",
    "ngữ_cảnh bối_cảnh đoạn_văn tài_liệu đầu_vào",
    "متن زمینه سند ورودی",
    "contexto contexte kontext contesto passaggio passagem pasaje abschnitt konteks bağlam контекст سياق",
    "上下文 背景 材料 文章 输入 文脈 コンテキスト 入力 문맥 지문 입력 संदर्भ บริบท",
)
PASSAGES = _names(
    "ctx contexts passages documents docs paragraph paragraphs facts fact story table transcript material support",
    "sources evidences knowledge_base",
)
"""As :data:`EXTRA`, where sentences stand in it."""
SYSTEM = _names(
    "system system_prompt system_message system_instruction",
    "hệ_thống سیستم sistema système 系统 系统提示 システム 시스템",
)
MESSAGES = _names(
    "messages conversations conversation dialog dialogue chat turns contents", "hội_thoại گفتگو مکالمه"
)
HISTORY = _names(
    "history chat_history conversation_history dialogue_history previous_turns",
    "lịch_sử تاریخچه historial historique verlauf 历史 履歴",
)
TOOLS = _names("tools functions available_tools tool_list")
LABEL = _names("label desirable is_desirable kto_label kto_tag thumbs_up is_good good weight train")
CLASS = _names("label labels class sentiment intent emotion label_text label_name")
REASONING = _names(
    "explanation reasoning reasoning_content thinking thoughts rationale cot complex_cot chain_of_thought"
)
WEIGHT = _names("weight sample_weight loss_weight")
CHOICES = _names("choices options candidates alternatives choice option")
META = _names("meta metadata info additional_info extra_info tags")
MEDIA = _names("image images audio audios video videos picture pictures")
RATING = _names("rating score quality reward stars grade helpfulness correct verdict feedback")
TEXT = _names("text content body", "văn_bản متن texto texte")
ABOUT = _names(
    "id ids uuid type kind length len count num number index idx hash url link lang language date time timestamp",
    "score token tokens model name category topic format difficulty level rating status author tag tags title",
)
"""Words that make a longer name one of something about the record: `question_id`, `answer_type`."""
