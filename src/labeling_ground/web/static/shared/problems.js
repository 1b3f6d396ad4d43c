// How errors are told. The server writes its sentences in English: pages in another language say first, in theirs, what it is.

import { language, t } from "./words.js";

const SENTENCES = {
  ko: {
    "backend-failed": "모델이 응답하지 않았습니다.",
    "bad-image": "사용할 수 없는 이미지입니다.",
    "bad-input": "요청이 올바르지 않습니다.",
    "bad-prompt": "이 이미지에 쓸 수 없는 클릭이나 상자입니다.",
    "cross-site": "다른 웹사이트의 페이지에서는 할 수 없는 작업입니다.",
    "damaged-image": "이미지 파일이 손상되었습니다. 원본을 다시 받거나 다시 저장한 뒤 여세요.",
    forbidden: "이 작업을 할 권한이 없습니다.",
    internal: "서버에서 오류가 발생했습니다. 자세한 내용은 서버 로그에 있습니다.",
    "invalid-request": "요청 내용이 올바르지 않습니다.",
    "malformed-body": "서버가 요청 본문을 읽을 수 없습니다.",
    "model-too-large": "서버의 메모리가 부족해 이 모델을 불러올 수 없습니다. 다른 모델을 선택하거나 운영자에게 문의하세요.",
    "no-room": "서버의 캐시가 작아 이 이미지를 보관할 수 없습니다. 운영자에게 문의하세요.",
    "not-found": "서버에서 찾을 수 없습니다.",
    "not-offered": "이 작업을 할 수 있는 모델이 서버에 없습니다.",
    overloaded: "서버에 요청이 너무 많습니다. 잠시 후 다시 시도하세요.",
    "request-timeout": "요청이 제때 도착하지 않았습니다. 다시 시도하세요.",
    "source-failed": "이미지를 가져오지 못했습니다.",
    "source-refused": "그 주소에서는 이미지를 가져올 수 없습니다.",
    "store-failed": "캐시가 작업을 처리하지 못했습니다.",
    "too-large": "서버가 정한 한도를 넘습니다.",
    unauthorized: "API 키가 필요합니다.",
    "unknown-host": "서버가 이 호스트 이름으로는 응답하지 않습니다. 운영자에게 주소를 확인하세요.",
    "unknown-image": "서버에 없는 이미지입니다.",
    "unknown-model": "이 서버에 없는 모델입니다. 다른 모델을 선택하세요.",
    "unknown-prediction": "서버가 이전 마스크를 더 이상 보관하고 있지 않습니다.",
    "unknown-session": "서버에 없는 세션입니다.",
    "unreachable-image": "캐시가 응답하지 않아 이 이미지가 있는지 알 수 없습니다. 잠시 후 다시 시도하세요.",
    "unreachable-prediction": "캐시가 응답하지 않아 이전 마스크가 있는지 알 수 없습니다. 잠시 후 다시 시도하세요.",
    "unsupported-encoding": "서버는 압축된 요청을 받지 않습니다.",
    "unsupported-image": "지원하지 않는 이미지 형식입니다. 다른 형식으로 저장한 뒤 여세요.",
    "unsupported-media-type": "서버가 받지 않는 콘텐츠 형식입니다.",
  },
};

// What the server remarks on an image, and the page's word for it.
const REMARKS = [
  [/The (\w+) file holds several (?:images|frames), of which the first is used\./, "remark-first"],
  [/The file has several pages, of which the first is used: save others as files of their own\./, "remark-pages"],
  [/The file has (\d+) channels, of which the first[\d ]* (?:is|are) used: save others as RGB\./, "remark-channels"],
  [/Transparency is laid over white, [^:]* is white too: nothing can be told apart\. Lay it over another colour before you send it\./, "remark-white"],
  [/This 16-bit image uses (\S+) % of its range, so it [^.]*\. Send it with stretch=\S+ to spread its values over the full range\./, "remark-range"],
];

/** A note of the server with its remarks on the image in the page's words. */
export function remarked(note) {
  return REMARKS.reduce((text, [pattern, word]) => text.replace(pattern, (_, what) => t(word, { what })), note);
}

/** Those remarks alone. */
export function remarksIn(note) {
  return REMARKS.map(([pattern]) => pattern.exec(note)?.[0]).filter(Boolean).map(remarked).join("\n");
}

/** What went wrong, in short: the page's own sentence for a refusal, where it has one; else the error's. */
export function reasonOf(error) {
  return SENTENCES[language()]?.[error.type] ?? error.message ?? error;
}

/** The same with the server's sentence below it. `error` is one, or what is kept of one: `{type, message}`, or a sentence. */
export function sentenceOf(error) {
  if (error.type === undefined) return reasonOf(error);
  const own = reasonOf(error);
  return `${own === error.message ? "" : `${own}\n`}${t("refused", { why: error.message })}`;
}
