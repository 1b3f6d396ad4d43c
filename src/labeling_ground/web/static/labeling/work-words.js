// Words about the work on one image: fixing by hand, objects, and in which tab it goes on; in English and Korean.

export const WORK_WORDS = {
  elsewhereWho: ["{name} is open there; last changed at {time}.", "그 탭에는 {name}이(가) 열려 있고 {time}에 마지막으로 변경되었습니다."],
  elsewhereIdle: ["{name} is open there; nothing was changed yet.", "그 탭에는 {name}이(가) 열려 있고 아직 변경 사항이 없습니다."],
  unfinished: ["Not finished, and not in the file: {images}. What waits for its mask comes in as soon as it has it.",
    "완료되지 않아 파일에 들어가지 않습니다: {images}. 마스크를 기다리는 객체는 마스크를 받으면 바로 포함됩니다."],
  unfinishedIn: ["{name} ({n})", "{name} ({n}개)"],
};
