// The labeling page's words, in English and Korean; and what other pages say in theirs.

const WORDS = {
  open: ["Open photos", "사진 열기"],
  folder: ["Folder", "폴더"],
  export: ["Export", "내보내기"],
  language: ["Language", "언어"],
  help: ["Help", "도움말"],
  panel: ["Classes and objects", "클래스와 객체"],
  tools: ["Tools", "도구"],
  stage: ["Image", "이미지"],
  canvas: ["The image. Arrow keys move a cross, Space clicks there, X clicks what does not belong, B sets a box's corners.",
    "이미지. 화살표 키로 십자선을 옮기고, 스페이스로 클릭, X로 제외 클릭, B로 상자 모서리를 정합니다."],
  images: ["Images", "이미지 목록"],
  promptBar: ["This object", "현재 객체"],
  toolPlus: ["Click the object; drag a box", "객체 클릭, 드래그하면 상자"],
  toolMinus: ["Click what does not belong", "제외할 부분 클릭"],
  toolBox: ["Drag a box", "상자 그리기"],
  toolPan: ["Move the image", "이미지 이동"],
  undo: ["Undo", "실행 취소"],
  redo: ["Redo", "다시 실행"],
  zoomIn: ["Zoom in", "확대"],
  zoomOut: ["Zoom out", "축소"],
  zoomFit: ["Whole image", "화면에 맞추기"],
  previousImage: ["Previous image", "이전 이미지"],
  nextImage: ["Next image", "다음 이미지"],
  candidatePrevious: ["Previous candidate", "이전 후보"],
  candidateNext: ["Next candidate", "다음 후보"],
  candidate: ["{n}/{of} · {score}", "{n}/{of} · {score}"],
  candidateTip: ["Candidate {n} of {of}; the model's own score is {score}", "후보 {of}개 중 {n}번째, 모델 점수 {score}"],
  discard: ["Discard", "버리기"],
  finish: ["Finish", "완료"],
  drop: ["Drop to open", "놓으면 열립니다"],
  welcome: ["Drop photos here", "사진을 여기에 놓으세요"],
  welcomeMore: ["or paste them, or open files or a whole folder. They stay in this browser and on your server.",
    "붙여넣거나, 파일 또는 폴더를 열 수도 있습니다. 사진은 이 브라우저와 여러분의 서버에만 남습니다."],
  stepClick: ["Click an object – its mask appears.", "객체를 클릭하면 마스크가 나타납니다."],
  stepFix: ["Alt-click, right-click or long-press what does not belong; or drag a box.",
    "제외할 부분은 Alt+클릭, 오른쪽 클릭 또는 길게 누르기. 상자는 드래그."],
  stepFinish: ["Enter, or the button Finish, finishes the object.", "Enter 또는 완료 버튼으로 객체를 완료합니다."],
  classes: ["Classes", "클래스"],
  newClass: ["New class", "새 클래스"],
  add: ["Add", "추가"],
  firstClass: ["object", "객체"],
  className: ["Name of the class", "클래스 이름"],
  classColour: ["Colour of {name}", "{name} 색"],
  pickClass: ["Label as {name}", "{name}(으)로 라벨링"],
  renameClass: ["Rename {name}", "{name} 이름 바꾸기"],
  deleteClass: ["Delete the class {name}", "클래스 {name} 삭제"],
  classThere: ["There is a class {name} already.", "{name} 클래스가 이미 있습니다."],
  classInUse: ["{name} still has objects. Give them another class first.", "{name} 클래스에 객체가 있습니다. 먼저 다른 클래스로 바꾸세요."],
  objects: ["Objects", "객체"],
  noObjects: ["Finished objects appear here.", "완료한 객체가 여기에 나타납니다."],
  objectName: ["Name of the object", "객체 이름"],
  renameObject: ["Select; double-click (F2) to name", "선택, 두 번 클릭(F2)하면 이름 입력"],
  objectClass: ["Class of the object", "객체의 클래스"],
  hide: ["Hide", "숨기기"],
  show: ["Show", "보이기"],
  edit: ["Edit again", "다시 편집"],
  delete: ["Delete", "삭제"],
  opacity: ["Mask opacity", "마스크 불투명도"],
  hover: ["Preview under the pointer", "포인터 아래 미리보기"],
  prepare: ["Prepare the next images", "다음 이미지 미리 준비"],
  decodeHere: ["Decode in the browser", "브라우저에서 디코딩"],
  "decode-loading": ["Getting the decoder; until then the server decodes.", "디코더를 받는 중이며, 그동안은 서버에서 디코딩합니다."],
  "decode-fetching": ["Getting this image's embedding.", "이 이미지의 임베딩을 받는 중입니다."],
  "decode-ready": ["Clicks need no server.", "클릭이 서버 없이 처리됩니다."],
  notHere: ["The server decodes: {why}", "서버에서 디코딩합니다: {why}"],
  noRuntime: ["ONNX Runtime Web is not installed there.", "서버에 ONNX Runtime Web이 설치되어 있지 않습니다."],
  noDecoder: ["{model} has no decoder that a browser can run.", "{model}에는 브라우저에서 실행할 수 있는 디코더가 없습니다."],
  noEmbedding: ["it gave no embedding ({why})", "임베딩을 받지 못했습니다 ({why})"],
  oldBrowser: ["this browser knows no WebAssembly.", "이 브라우저는 WebAssembly를 지원하지 않습니다."],
  decoderBroke: ["the decoder here failed ({why}).", "브라우저 디코더가 실패했습니다 ({why})."],
  decoderNotStarted: ["it did not start", "시작되지 않음"],
  decoderSilent: ["it does not answer", "응답 없음"],
  decoderUnread: ["its answer could not be read", "응답을 읽을 수 없음"],
  model: ["Model: {model}", "모델: {model}"],
  "note-classical": ["These masks come from classical image processing, not from Segment Anything, and are of lower quality.",
    "Segment Anything이 아니라 고전적 영상 처리로 만든 마스크라서 품질이 낮습니다."],
  close: ["Close", "닫기"],
  cancel: ["Cancel", "취소"],
  helpTitle: ["Mouse, keys and touch", "마우스, 키보드, 터치"],
  apiDocs: ["For programs: the API", "프로그램용 API 문서"],
  exportTitle: ["Export labels", "라벨 내보내기"],
  format: ["Format", "형식"],
  onlyThis: ["Only this image", "이 이미지만"],
  download: ["Download", "다운로드"],
  summary: ["{objects} in {images}.", "{images}, {objects}."],
  objectsOf: ["{n} objects", "객체 {n}개"],
  "objectsOf-one": ["1 object", "객체 1개"],
  imagesOf: ["{n} images", "이미지 {n}개"],
  "imagesOf-one": ["1 image", "이미지 1개"],
  "left-mask": ["{n} objects have no mask (yet) and are left out.", "객체 {n}개는 (아직) 마스크가 없어 제외됩니다."],
  "left-mask-one": ["1 object has no mask (yet) and is left out.", "객체 1개는 (아직) 마스크가 없어 제외됩니다."],
  exportFailed: ["The export failed: {why}", "내보내지 못했습니다: {why}"],
  archiveTooLarge: ["This is more than a zip holds (4 GiB, 65,534 files). Leave the images out, or export image by image.",
    "zip 한도(4 GiB, 파일 65,534개)를 넘습니다. 이미지를 빼거나 이미지별로 내보내세요."],
  withImages: ["Put the images into the archive", "압축 파일에 이미지 포함"],
  piecesOf: ["Objects in several pieces", "여러 조각으로 된 객체"],
  "pieces-all": ["A row for each piece", "조각마다 한 줄"],
  "pieces-largest": ["Only the largest piece", "가장 큰 조각만"],
  tolerance: ["Outlines", "윤곽선"],
  "tolerance-1": ["Within 1 pixel", "오차 1픽셀 이내"],
  "tolerance-2": ["Within 2 pixels", "오차 2픽셀 이내"],
  "tolerance-4": ["Within 4 pixels", "오차 4픽셀 이내"],
  "coco-rle": ["COCO, RLE masks", "COCO, RLE 마스크"],
  "coco-rle-more": ["One JSON file, exact masks; for pycocotools.", "JSON 파일 하나, 정확한 마스크. pycocotools용."],
  "coco-polygons": ["COCO, polygons", "COCO, 다각형"],
  "coco-polygons-more": ["One JSON file; the polygons run along the pixels' edges.", "JSON 파일 하나. 다각형은 픽셀 경계를 따릅니다."],
  labelstudio: ["Label Studio", "Label Studio"],
  "labelstudio-more": ["Tasks with brush masks, to import.", "가져오기용 브러시 마스크 작업."],
  keyTitle: ["This server wants an API key", "이 서버에는 API 키가 필요합니다"],
  key: ["API key", "API 키"],
  keyMore: ["It is kept until this tab is closed. The operator of the server hands keys out.",
    "이 탭을 닫을 때까지 보관됩니다. 키는 서버 운영자에게 받으세요."],
  keyRefused: ["The server did not accept that key.", "서버가 그 키를 받아들이지 않았습니다."],
  elsewhereTitle: ["This page is open in another tab", "이 페이지가 다른 탭에서 열려 있습니다"],
  elsewhere: ["Two tabs at once would overwrite each other's work. Go on there, or here: then that one stops.",
    "두 탭에서 동시에 작업하면 서로의 작업을 덮어씁니다. 그 탭에서 계속하거나, 여기서 계속하세요. 여기서 계속하면 그 탭은 멈춥니다."],
  goOnHere: ["Go on here", "여기서 계속"],
  cachePage: ["What the cache does", "캐시 현황"],
  useKey: ["Use this key", "이 키 사용"],
  checking: ["Asking the server", "서버에 확인 중"],
  uploading: ["Uploading", "업로드 중"],
  serverAway: ["Waiting for the server", "서버를 기다리는 중"],
  "serverAway-more": ["{s} s", "{s}초"],
  inQueue: ["Number {n} in the queue", "대기열 {n}번째"],
  "inQueue-more": ["about {left} s", "약 {left}초"],
  encoding: ["Encoding", "인코딩 중"],
  "encoding-more": ["{s} s", "{s}초"],
  decoding: ["Computing the mask", "마스크 계산 중"],
  "decoding-more": ["{s} s", "{s}초"],
  opening: ["Opening photos", "사진 여는 중"],
  "opening-more": ["{n} of {of}", "{n} / {of}"],
  "remark-first": ["The {what} file holds several pictures, of which the first is used.", "{what} 파일에 그림이 여러 개 있어 첫 번째만 사용합니다."],
  "remark-pages": ["The file has several pages, of which the first is used: save others as files of their own.",
    "파일에 페이지가 여러 개 있어 첫 페이지만 사용합니다. 다른 페이지는 별도 파일로 저장하세요."],
  "remark-channels": ["Of the file's channels ({what}) not all are used: save it as RGB.", "파일의 채널 {what}개 중 일부만 사용합니다. RGB로 저장하세요."],
  "remark-white": ["Transparency is laid over white, and what is visible of this image is white too. Lay it over another colour, and open that file.",
    "투명한 부분은 흰색으로 채우는데 보이는 부분도 흰색입니다. 다른 색 배경 위에 저장한 파일을 여세요."],
  "remark-range": ["This 16-bit image uses {what} % of its range, so it is dark or has little contrast. Switch on «Stretch dark images».",
    "이 16비트 이미지는 값 범위의 {what} %만 사용해 어둡거나 대비가 낮습니다. «어두운 이미지의 값 범위 늘리기»를 켜세요."],
  needPositive: ["Click the object first: what does not belong alone makes no mask.", "먼저 객체를 클릭하세요. 제외 클릭만으로는 마스크를 만들 수 없습니다."],
  emptyMask: ["The mask is empty. Click somewhere else, or undo.", "마스크가 비어 있습니다. 다른 곳을 클릭하거나 실행 취소하세요."],
  sameBytes: ["{name} is the same file as {as}: it is labeled once, and exported under both names.",
    "{name}은(는) {as}와(과) 같은 파일입니다. 한 번만 라벨링하고 두 이름으로 내보냅니다."],
  pendingMask: ["The mask is on its way.", "마스크를 계산하는 중입니다."],
  maskless: ["An object in {name} got no mask. The list of objects says why; edit it again, or delete it.",
    "{name}의 객체 하나에 마스크가 없습니다. 객체 목록에서 이유를 확인하고 다시 편집하거나 삭제하세요."],
  otherPicture: ["The image is drawn anew, as the server reads it. Click again.", "이미지를 서버가 읽는 대로 다시 표시합니다. 다시 클릭하세요."],
  stretch: ["Stretch dark images", "어두운 이미지의 값 범위 늘리기"],
  modelChoice: ["Model", "모델"],
  modelChoiceTip: ["What you are making is asked again; finished objects keep their masks.",
    "작업 중인 객체를 선택한 모델로 다시 요청합니다. 완료된 객체의 마스크는 그대로입니다."],
  stretchTip: ["For 10 to 14 bits in 16-bit files. All images are segmented anew, as you see them then.",
    "16비트 파일에 담긴 10–14비트 데이터용. 모든 이미지를 화면에 보이는 대로 다시 분할합니다."],
  nothingToOpen: ["There is no photo among these files.", "사진 파일이 없습니다."],
  gone: ["The server does not answer. Your work is kept in this browser; this page goes on when the server is back.",
    "서버가 응답하지 않습니다. 작업은 이 브라우저에 보관되며, 서버가 돌아오면 이어서 진행합니다."],
  back: ["The server is back.", "서버가 돌아왔습니다."],
  busy: ["The server is busy. Trying again in a moment.", "서버가 바쁩니다. 잠시 후 다시 시도합니다."],
  again: ["Trying again in a moment.", "잠시 후 다시 시도합니다."],
  isKept: ["Your work is kept in this browser with each step. Export hands it over.",
    "작업은 단계마다 이 브라우저에 저장됩니다. 넘겨줄 때는 내보내기를 사용하세요."],
  notKept: ["This browser does not keep the work ({why}). Export before you close the page.",
    "이 브라우저가 작업을 저장하지 못합니다({why}). 페이지를 닫기 전에 내보내세요."],
  noDatabase: ["IndexedDB is not available", "IndexedDB를 사용할 수 없습니다"],
  oldTab: ["another tab holds an older version of this page", "다른 탭에 이 페이지의 이전 버전이 열려 있습니다"],
  refused: ["The server says: {why}", "서버 메시지: {why}"],
  hit: ["from the cache", "캐시"],
  joined: ["joined", "함께 계산"],
  miss: ["computed", "계산"],
  recomputed: ["computed again", "다시 계산"],
  here: ["in the browser", "브라우저"],
  hereTip: ["{ms} ms from the click to the answer, all of it in this browser", "클릭부터 응답까지 {ms} ms, 모두 이 브라우저에서"],
  badgeTip: ["{ms} ms from the click to the answer, {server} ms of it in the server", "클릭부터 응답까지 {ms} ms, 서버에서 {server} ms"],
  notSent: ["not sent yet", "아직 보내지 않음"],
  sending: ["being sent", "보내는 중"],
  queued: ["waits for the encoder", "인코딩 대기"],
  ready: ["ready", "준비됨"],
  failed: ["failed", "실패"],
  thumb: ["{name}, {work}, {objects}, {state}", "{name}, {work}, {objects}, {state}"],
  removeImage: ["Take {name} off the list, with {objects}?", "{name}과(와) {objects}를 목록에서 지울까요?"],
  takeOff: ["Take this image off the list", "이 이미지를 목록에서 지우기"],
  remove: ["Take off", "지우기"],
  keyClick: ["Click", "클릭"],
  keyAlt: ["Alt or right click", "Alt 또는 오른쪽 클릭"],
  keyDrag: ["Drag", "드래그"],
  keyWheel: ["Wheel", "휠"],
  keySpaceDrag: ["Space or middle drag", "스페이스 또는 가운데 버튼 드래그"],
  keyPress: ["Long press", "길게 누르기"],
  keyFingers: ["Two fingers", "두 손가락"],
  helpClick: ["On the object", "객체"],
  helpAlt: ["Off the object", "제외"],
  helpBox: ["Box", "상자"],
  helpWheel: ["Zoom", "확대/축소"],
  helpPan: ["Move the image", "이미지 이동"],
  helpFingers: ["Zoom and move", "확대·이동"],
  helpFinish: ["Finish the object", "객체 완료"],
  helpDiscard: ["Discard, or select nothing", "버리기 또는 선택 해제"],
  helpUndo: ["Undo, redo", "실행 취소, 다시 실행"],
  helpCandidate: ["Next, previous candidate", "다음, 이전 후보"],
  helpClass: ["Class", "클래스"],
  helpObject: ["Select an object", "객체 선택"],
  helpEdit: ["Edit, hide, delete the selected object", "선택한 객체 편집, 숨기기, 삭제"],
  helpRename: ["Name the selected object", "선택한 객체 이름 입력"],
  helpImage: ["Next, previous image", "다음, 이전 이미지"],
  helpTools: ["Tools: object, not object, box, move", "도구: 객체, 제외, 상자, 이동"],
  helpZoom: ["Zoom in, out, whole image", "확대, 축소, 화면 맞춤"],
  helpOpacity: ["Masks lighter, stronger", "마스크 옅게, 진하게"],
  helpMasks: ["Show or hide all masks", "모든 마스크 보이기/숨기기"],
  helpHover: ["Preview on, off", "미리보기 켜기/끄기"],
  helpCross: ["Move the cross (Shift: by one pixel)", "십자선 이동 (Shift: 한 픽셀)"],
  helpCrossClick: ["At the cross: on, off, box corner", "십자선에서: 객체, 제외, 상자 모서리"],
  helpOpen: ["Open photos, export", "사진 열기, 내보내기"],
};

const LANGUAGES = ["en", "ko"];
let column = 0;

/** The language to speak: the chosen one if there is one, else the browser's own if we know it. */
export function languageFor(chosen, browser) {
  return [chosen, browser.slice(0, 2)].find((one) => LANGUAGES.includes(one)) ?? LANGUAGES[0];
}

/** The language that is spoken. */
export const language = () => LANGUAGES[column];

/** Add a page's own words. */
export function learn(more) {
  Object.assign(WORDS, more);
}

/** The words in the page's language, `{name}` filled in from `values`. */
export function t(name, values = {}) {
  const text = WORDS[name]?.[column] ?? name;
  return text.replace(/\{(\w+)\}/g, (whole, key) => values[key] ?? whole);
}

/** How many of something there are: the word's form for one is called `word-one`. `shown` is the number as it is written. */
export function counted(word, many, shown = many) {
  return t(many === 1 ? `${word}-one` : word, { n: shown });
}

/** Speak a language from now on. */
export function setLanguage(name) {
  column = Math.max(0, LANGUAGES.indexOf(name));
}

/** Change the language, and every fixed text of the page with it. */
export function speak(name, root = document) {
  setLanguage(name);
  root.documentElement.lang = LANGUAGES[column];
  for (const element of root.querySelectorAll("[data-t]")) element.textContent = t(element.dataset.t);
  for (const element of root.querySelectorAll("[data-tip]")) {
    const { tip, key } = element.dataset; // the key does the same
    element.title = key ? `${t(tip)} (${key})` : t(tip);
    element.setAttribute("aria-label", t(tip));
  }
  for (const element of root.querySelectorAll("[data-label]")) element.setAttribute("aria-label", t(element.dataset.label));
  for (const element of root.querySelectorAll("[data-placeholder]")) element.placeholder = t(element.dataset.placeholder);
}

export const words = WORDS;
