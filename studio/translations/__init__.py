"""Every word of the page, in English and Chinese, in one table."""

from __future__ import annotations

import gradio as gr

from gmtalker.clock import EMOTIONS
from personalize.consent import CONSENT_WORDS
from personalize.request import PRESETS

LANGUAGES = ("en", "zh")


# key: (English, Chinese)
WORDS: dict[str, tuple[str, str]] = {
    "heading": (
        "# GMTalker Studio\nMake an avatar of yourself from a few minutes of video, and let it say anything, in any mood.",
        "# GMTalker 工作室\n用几分钟的视频制作您的数字形象，让它用任何情绪说任何话。",
    ),
    "tab_create": ("Create", "创作"),
    "tab_personalize": ("Personalize", "定制形象"),
    "tab_avatars": ("Avatars", "形象库"),
    # On a Space
    "demo_about": (
        "### In this demo nobody trains\nEverybody shares it. Duplicate this Space, and make avatars in a copy of your own.",
        "### 演示版不提供训练\n所有人共用此演示。复制此 Space，即可在您自己的副本中制作形象。",
    ),
    "duplicate": ("Duplicate this Space", "复制此 Space"),
    "sign_in": ("Sign in with Hugging Face", "使用 Hugging Face 登录"),
    "sign_in_about": (
        "Sign in, and nobody else finds your avatars, speeches and videos here.",
        "请登录。您的形象、语音和视频不会被其他人看到。",
    ),
    # Emotions
    "neutral": ("neutral", "平静"),
    "angry": ("angry", "愤怒"),
    "contempt": ("contempt", "轻蔑"),
    "disgusted": ("disgusted", "厌恶"),
    "fear": ("fear", "恐惧"),
    "happy": ("happy", "高兴"),
    "sad": ("sad", "悲伤"),
    "surprised": ("surprised", "惊讶"),
    "angry_info": ("Brows down, lips pressed.", "眉毛压低，嘴唇紧闭。"),
    "contempt_info": ("One corner of the mouth up.", "一侧嘴角上扬。"),
    "disgusted_info": ("Nose wrinkled, upper lip up.", "皱鼻，上唇抬起。"),
    "fear_info": ("Brows up and together.", "眉毛上扬并靠拢。"),
    "happy_info": ("A smile that reaches the eyes.", "发自眼底的微笑。"),
    "sad_info": ("Corners of the mouth down.", "嘴角下垂。"),
    "surprised_info": ("Brows up, eyes wide.", "眉毛上扬，双眼睁大。"),
    "neutral_info": ("What the others leave over.", "其他情绪剩余的部分。"),
    # Create
    "create_avatar": ("### 1 · Avatar", "### 1 · 形象"),
    "avatar": ("AvatarLike speaks", "谁来说话"),
    "avatar_info": ("Click a picture, or choose a name.", "点击图片，或选择名字。"),
    "strip": ("Its eight emotions", "它的八种情绪"),
    "create_speech": ("### 2 · Speech", "### 2 · 语音"),
    "speech": (
        "What is said: a sound file or the microphone, in any language",
        "要说的内容：上传音频文件或用麦克风录音，任何语言均可",
    ),
    "examples": ("Examples", "示例"),
    "create_emotion": (
        "### 3 · Emotion\nMix as you like; the preview follows. What is missing from 1 stays neutral.",
        "### 3 · 情绪\n随意混合，预览会随之变化。总和不足 1 的部分保持平静。",
    ),
    "preset_neutral": ("Neutral", "平静"),
    "preset_joyful": ("Joyful", "欢快"),
    "preset_bitter": ("Bitter", "苦涩"),
    "preset_shocked": ("Shocked", "震惊"),
    "preset_furious": ("Furious", "暴怒"),
    "intensity": ("intensity", "强度"),
    "intensity_info": ("0 is neutral, 1 as mixed, more is exaggerated.", "0 为平静，1 为所混合的情绪，更大则更夸张。"),
    "over_full": ("Together more than 1: they are scaled down to 1.", "总和超过 1：将按比例缩小到 1。"),
    "timeline_title": ("Emotion over time", "随时间变化的情绪"),
    "timeline_about": (
        "Mix an emotion above, say at which second it is reached, and add it as a key; between keys the face blends."
        " With a key in the table, the table counts instead of the sliders.",
        "在上面混合一种情绪，填写到达它的秒数，并添加为关键点；关键点之间表情会平滑过渡。表中有关键点时，以表格为准。",
    ),
    "key_time": ("At second", "秒数"),
    "key_time_info": ("When the emotion is reached.", "何时到达该情绪。"),
    "key_add": ("Add a key", "添加关键点"),
    "key_clear": ("Remove all keys", "清除所有关键点"),
    "keys": ("Keys: type into the cells to change them", "关键点：可直接在单元格中修改"),
    "curves": (
        "The emotions over the speech. Drag a dotted line to move its key; click beside them to choose a second.",
        "语音上的情绪曲线。拖动虚线可移动关键点；点击空白处可选择时间。",
    ),
    "script": ("Or a script with tags", "或使用带标签的文稿"),
    "script_info": (
        "[happy 0.8] What a day! [sad] But it rains. The words are laid evenly over the speech.",
        "[happy 0.8] 多好的一天！[sad] 可惜下雨了。文字会均匀分布在语音上。",
    ),
    "script_apply": ("Make keys from the script", "由文稿生成关键点"),
    "speech_before_script": ("Choose the speech first: the script is laid over it.", "请先选择语音：文稿将分布在语音上。"),
    "create_movement": ("### 4 · Movement", "### 4 · 动作"),
    "head": ("head", "头部"),
    "head_info": ("How much the head moves.", "头部动作的幅度。"),
    "blink": ("blink", "眨眼"),
    "blink_info": ("How far the eyelids close.", "眼睑闭合的程度。"),
    "gaze": ("gaze", "视线"),
    "gaze_info": ("How much the eyes wander.", "视线游移的幅度。"),
    "seed": ("seed", "种子"),
    "seed_info": ("Another number, another take.", "换一个数字，换一次表演。"),
    "label_it": ("Label it", "添加标签"),
    "label_it_info": (
        "Write “AI-generated” into the picture. Every video also carries a signature and an invisible mark that say so.",
        "在画面中写上“AI-generated”。每个视频还带有说明其为AI生成的签名和隐形水印。",
    ),
    "lock": ("keep this take", "保持这次表演"),
    "lock_info": ("Off: every video gets another seed.", "关闭：每个视频使用不同的种子。"),
    "full_frame": ("full frame", "完整画面"),
    "full_frame_info": (
        "In the person's own footage, at its size, instead of head and shoulders alone.",
        "放回本人的原始画面，而不只是头肩部分。",
    ),
    "takes": ("Three takes side by side", "并排对比三次表演"),
    "finished": ("The finished video", "完成的视频"),
    "takes_video": ("Three takes of the first seconds", "开头几秒的三次表演"),
    "take_use": ("Take {number}", "第 {number} 次"),
    "reset": ("Reset everything", "全部重置"),
    "preview": ("Preview", "预览"),
    "make": ("Create the video", "生成视频"),
    "stop": ("Stop", "停止"),
    "make_hint": (
        "Choose a speech and press Create, or Ctrl and Enter from anywhere; a minute of speech takes about a minute.",
        "选择语音并点击生成（或随时按 Ctrl 和回车）；一分钟的语音大约需要一分钟。",
    ),
    "history": ("Videos of this visit", "本次访问生成的视频"),
    "history_info": ("Choosing one shows it and brings its settings back.", "选择后会显示该视频并恢复其设置。"),
    "command": ("The same again, from the command line", "用命令行再次生成"),
    "command_info": ("With your own copy of the speech.", "使用您自己的语音文件。"),
    "no_such_avatar": ("Choose one of the avatars first.", "请先选择一个形象。"),
    "video_without_avatar": (
        "The avatar of this video is not there any more; the video still is.",
        "该视频的形象已不存在；视频仍可观看。",
    ),
    "speech_too_long": (
        "The speech is longer than the {minutes:g} minutes that this page takes; cut it.",
        "语音超过了本页面允许的 {minutes:g} 分钟；请剪短。",
    ),
    "training_too_long": (
        "The training is longer than the {minutes:g} minutes that this page takes.",
        "训练时间超过了本页面允许的 {minutes:g} 分钟。",
    ),
    "speech_first": (
        "Choose a speech first: upload one, record one, or take an example.",
        "请先选择语音：上传、录制或使用示例。",
    ),
    "listening": ("Listening to the speech", "正在聆听语音"),
    "expression": ("Finding the expressions", "正在生成表情"),
    "drawing": ("Drawing", "正在绘制"),
    "frame_of": ("frame {done} of {total}", "第 {done} / {total} 帧"),
    "seconds_left": ("{seconds:.0f} s left", "剩余 {seconds:.0f} 秒"),
    "minutes_left": ("{minutes:.0f} min left", "剩余 {minutes:.0f} 分钟"),
    "stopped": ("Stopped.", "已停止。"),
    "done_in": ("Done in {seconds:.0f} s.", "完成，用时 {seconds:.0f} 秒。"),
    # Avatars
    "avatars_about": (
        "### Your avatars\nAll of them are folders on this machine; nothing is shared unless you do it.",
        "### 您的形象\n它们都是本机上的文件夹；除非您自己分享，否则不会外传。",
    ),
    "avatars": ("Avatars", "形象"),
    "avatars_nobody": (
        "Click an avatar to see what it was made from and how good it is.",
        "点击一个形象，查看它的来源和质量。",
    ),
    "about": ("About", "关于"),
    "bundled": ("(bundled)", "（内置）"),
    "consent_of": ("consent of", "同意人"),
    "given": ("given", "同意时间"),
    "consent_words": ("words", "同意内容"),
    "name": ("name", "名称"),
    "rename": ("Rename", "重命名"),
    "share_title": ("Share on the Hugging Face Hub", "在 Hugging Face Hub 上分享"),
    "share_about": (
        "Its files and a model card become a repo of yours. It is private unless you say otherwise.",
        "形象文件和模型卡将成为您名下的仓库。除非另行选择，否则为私有。",
    ),
    "repo": ("Repo", "仓库"),
    "repo_info": (
        "owner/name; empty for a repo of its name, or the one it was in before.",
        "所有者/名称；留空则使用形象的名称或之前的仓库。",
    ),
    "token": ("Token", "令牌"),
    "token_info": (
        "Of huggingface.co, with the right to write. It is used once, and not kept.",
        "来自 huggingface.co，需有写权限。仅使用一次，不会保存。",
    ),
    "public": ("Public: everybody can find it and use it", "公开：任何人都可找到并使用"),
    "card_preview": ("The model card as it will be", "模型卡预览"),
    "share": ("Share", "分享"),
    "shared": ("{name} is at {address} now.", "{name} 现位于 {address}。"),
    "pull_title": ("Get one from the Hub", "从 Hub 获取"),
    "pull_repo_info": ("owner/name, as on huggingface.co", "所有者/名称，与 huggingface.co 上一致"),
    "pull_token_info": (
        "Only for a private or gated one. It is used once, and not kept.",
        "仅用于私有或受限仓库。仅使用一次，不会保存。",
    ),
    "pull": ("Get it", "获取"),
    "new_name": ("New name", "新名称"),
    "export": ("Export as one file", "导出为单个文件"),
    "import": ("Import an avatar file", "导入形象文件"),
    "imported": ("Imported {name}.", "已导入 {name}。"),
    "delete": ("Delete this avatar", "删除此形象"),
    "delete_question": (
        "**Delete {name}?** Its pictures, its networks and its training are removed.",
        "**删除 {name}？** 它的图片、网络和训练数据都将被删除。",
    ),
    "delete_yes": ("Yes, delete it for good", "是，永久删除"),
    "delete_no": ("Keep it", "保留"),
    # Personalize
    "guide": (
        "### 1 · Film yourself, and agree\n"
        "* One to three minutes of talking, one person, head and shoulders, looking at the camera.\n"
        "* Light from the front, a calm background, the camera on a table; talk as you do with a friend, with your moods.\n"
        "* A phone or a webcam is good enough, upright or sideways, in one clip or several.",
        "### 1 · 拍摄自己，并表示同意\n"
        "* 说话一到三分钟，只有一个人，头肩入镜，看着镜头。\n"
        "* 光线来自正面，背景安静，相机放稳；像和朋友聊天一样，带上您的情绪。\n"
        "* 手机或网络摄像头即可，横竖均可，一段或多段都行。",
    ),
    "guide_example": ("Like this.", "就像这样。"),
    "who": ("AvatarLike is in the clips", "视频中的人是谁"),
    "who_info": ("The name of the person who agrees.", "表示同意的人的姓名。"),
    "consent": (CONSENT_WORDS, "我就是这些视频中的人，或已得到此人的许可。我同意制作此人的数字形象，它可以被用来说任何话。"),
    "upload": ("### 2 · Upload", "### 2 · 上传"),
    "clips": ("One clip or several, of one person", "同一个人的一段或多段视频"),
    "webcam": ("Or film yourself here", "或在此直接拍摄"),
    "clip_emotions": ("What each clip shows", "每段视频表现的情绪"),
    "clip_emotions_info": (
        "Leave it empty for talking in changing moods; name an emotion where a clip shows one from begin to end.",
        "情绪有变化时留空；若一段视频自始至终表现同一种情绪，请注明。",
    ),
    "check_about": (
        "### 3 · Check\nIs one face well in view, sharp, large enough? Half a minute tells.",
        "### 3 · 检查\n画面中是否只有一张脸，是否清晰、足够大？半分钟即可知道。",
    ),
    "check": ("Check the clips", "检查视频"),
    "checked_overlay": ("What the tracker sees", "跟踪到的面部"),
    "train_about": ("### 4 · Train", "### 4 · 训练"),
    "avatar_name": ("Name of the avatar", "形象的名称"),
    "avatar_name_info": ("How you find it again.", "方便您以后找到它。"),
    "preset": ("How well", "质量"),
    "preset_info": ("More time, more likeness.", "时间越长，越像。"),
    "preset_draft": (f"Draft: a first look, {PRESETS['draft']:g} minutes of training", f"草稿：训练 {PRESETS['draft']:g} 分钟"),
    "preset_standard": (
        f"Standard: for every day, {PRESETS['standard']:g} minutes of training",
        f"标准：日常使用，训练 {PRESETS['standard']:g} 分钟",
    ),
    "preset_high": (
        f"High: the sharpest picture, {PRESETS['high']:g} minutes of training",
        f"精细：最清晰的画面，训练 {PRESETS['high']:g} 分钟",
    ),
    "minutes": ("Minutes", "分钟"),
    "minutes_info": ("0 means the preset's own time.", "0 表示使用预设的时间。"),
    "train": ("Train", "开始训练"),
    "watch": ("### 5 · Watch", "### 5 · 观察进度"),
    "resume": ("Resume", "继续"),
    "sample": ("Show me now", "现在看看"),
    "create_with_it": ("Create with it", "用它创作"),
    "nothing_trains": (
        "No training yet. You may close this page while one runs: it goes on, and is shown here again.",
        "尚无训练。训练进行时可以关闭此页面：训练会继续，再次打开时会显示。",
    ),
    "truth_beside": (
        "Real frames above, drawn ones below, of seconds it never saw",
        "上：真实画面，下：生成画面（训练中未见过的片段）",
    ),
    "quality_curve": ("Likeness on seconds it never saw, dB", "未见过片段上的相似度（dB）"),
    "stop_training": ("Stop, to resume later", "停止，以后可继续"),
    "finish": ("Finish now, as good as it is", "现在完成，保留已学到的"),
    "name_first": ("Give the avatar a name first.", "请先给形象取一个名字。"),
    "good_enough": (
        "Good enough: it hardly gets better now. You may finish it here, or let it go on.",
        "已经足够好：再训练提升不大。您可以现在完成，也可以让它继续。",
    ),
    "job_queued": ("Waiting for the training before it to end", "等待前一个训练结束"),
    "job_done": ("Done.", "已完成。"),
    "job_stopped": ("Stopped.", "已停止。"),
    "job_failed": ("Failed.", "失败。"),
    "job_quality": ("{psnr:.1f} dB on seconds it never saw", "未见过片段上 {psnr:.1f} dB"),
    "checking the clips": ("checking the clips", "检查视频"),
    "finding the face": ("finding the face", "寻找面部"),
    "cutting the head": ("cutting the head", "截取头部"),
    "learning how hair and shoulders move": ("learning how hair and shoulders move", "学习头发和肩部的运动"),
    "learning the speaking style": ("learning the speaking style", "学习说话方式"),
    "training the head": ("training the head", "训练头部"),
    "measuring": ("measuring", "测量"),
    "pictures of the avatar": ("pictures of the avatar", "绘制形象的图片"),
    "waiting": ("{name} waits; {position} before it.", "{name} 排队中，前面还有 {position} 个。"),
    "consent_missing": (
        "Write whose face it is and tick the box: nobody is made into an avatar without consent.",
        "请写明是谁的脸并勾选同意：未经同意，不会为任何人制作形象。",
    ),
    "consent_before_check": ("Write whose face it is and tick the box first.", "请先写明是谁的脸并勾选同意。"),
    "upload_first": ("Upload a clip first.", "请先上传视频。"),
    "check_first": ("Check the clips first.", "请先检查视频。"),
    "ready": ("Ready to train.", "可以开始训练。"),
    "please_fix": ("Please fix what is marked, and upload again.", "请改进标出的问题，然后重新上传。"),
    "fine": ("✓ {count} points are good", "✓ {count} 项良好"),
    "pass": ("✓ good", "✓ 良好"),
    "warn": ("! could be better", "! 可改进"),
    "fail": ("✗ to fix", "✗ 需修正"),
    "what": ("what", "项目"),
    "found": ("found", "结果"),
    "estimate": (
        "About {minutes:.0f} min in all on this machine, {disk:.0f} MB of disk ({free:.0f} GB free), {memory:.1f} GB of memory.",
        "本机上总共约需 {minutes:.0f} 分钟、{disk:.0f} MB 磁盘（剩余 {free:.0f} GB）、{memory:.1f} GB 内存。",
    ),
}


assert set(EMOTIONS) <= set(WORDS)


TRANSLATIONS = gr.I18n(**{language: {key: words[at] for key, words in WORDS.items()} for at, language in enumerate(LANGUAGES)})


def word(key: str) -> gr.I18n:
    """A word of the page in the reader's own language: the browser chooses. Errors: KeyError for a key that is not there."""
    WORDS[key]
    return TRANSLATIONS(key)


def language_of(request: gr.Request | None) -> str:
    """The first language of the reader's browser that the page knows."""
    wanted = (request.headers.get("accept-language") or "") if request else ""
    for part in wanted.split(","):
        language = part.split(";")[0].strip().lower()[:2]
        if language in LANGUAGES:
            return language
    return LANGUAGES[0]


def say(request: gr.Request | None, key: str, **values: object) -> str:
    """A sentence that the server writes into the page, in the reader's language."""
    return WORDS[key][LANGUAGES.index(language_of(request))].format(**values)
