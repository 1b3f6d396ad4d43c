"""Drives X-AnyLabeling's real window, without a screen; run by its own Python.

Reads a JSON object: the server's ``url``, the ``key``, an ``image``, a ``folder`` for the tool's files, and ``steps``:

- ``["click", x, y]``, ``["erase", x, y]``: a point on or off the object, in pixels of the image.
- ``["find", TEXT]``: typed into the field for text, and sent.
- ``["find_all", TEXT]``: looked for in all pictures of the image's folder; the two dialogs are answered.
- ``["draw"]``: a polygon by hand, so that there is something to lose.
- ``["picture", FILE]``: the window as it is, saved as a PNG.
- ``["ask", NAME]``: makes the file NAME and waits for NAME.done, while the test changes something.

Writes a JSON line with the model and the buttons that are offered, and one after each step: the polygons of the picture
and the marks that were sent last.
"""

import json
import os
import sys
import time
from pathlib import Path

os.environ["QT_QPA_PLATFORM"] = "offscreen"

from anylabeling import config as anylabeling_config
from PyQt6 import QtCore, QtWidgets
from PyQt6.QtTest import QTest

LONG_S = 60.0


def until(holds):
    end = time.monotonic() + LONG_S
    while not holds():
        if time.monotonic() > end:
            raise SystemExit("it never happened")
        QTest.qWait(20)


def write(value):
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


def main():
    told = json.load(sys.stdin)
    folder = Path(told["folder"])
    anylabeling_config.set_work_directory(str(folder))
    file = folder / ".xanylabelingrc"
    settings = {"remote_server_settings": {"server_url": told["url"], "api_key": told["key"], "timeout": 180}}
    file.write_text(json.dumps(settings))  # JSON is YAML
    anylabeling_config.current_config_file = str(file)
    config = anylabeling_config.get_config(str(file), {}, show_msg=False)
    QtCore.QCoreApplication.setAttribute(QtCore.Qt.ApplicationAttribute.AA_ShareOpenGLContexts)
    app = QtWidgets.QApplication(["x-anylabeling"])
    from anylabeling.resources import resources  # noqa: F401 -- the tool's own icons and models
    from anylabeling.views.labeling.shape import Shape
    from anylabeling.views.labeling.utils import batch
    from anylabeling.views.mainwindow import MainWindow

    window = MainWindow(app, config=config, filename=told["image"])
    window.resize(1200, 900)
    window.show()
    view = window.labeling_widget.view
    until(lambda: view.image is not None and not view.image.isNull())
    tool = view.auto_labeling_widget
    tool.show()
    manager = tool.model_manager
    [path] = [each["config_file"] for each in manager.get_model_configs() if "remote_server" in each["config_file"]]
    manager.load_model(path)
    until(lambda: tool.remote_server_select_combobox.count() > 0 or manager.loaded_model_config is not None)
    until(lambda: tool.remote_server_select_combobox.currentData())
    offered = {"model": tool.remote_server_select_combobox.currentData()}
    offered["buttons"] = [
        name
        for name in ("button_add_point", "button_remove_point", "button_add_rect", "button_finish_object")
        if getattr(tool, name).isVisibleTo(tool)
    ]
    write(offered)
    canvas = view.canvas

    def at(x, y):
        point = (QtCore.QPointF(x, y) + canvas.offset_to_center()) * canvas.scale
        return QtCore.QPoint(round(point.x()), round(point.y()))

    finished = []
    manager.prediction_finished.connect(lambda: finished.append(1))
    for step, *rest in told["steps"]:
        if step in ("click", "erase"):
            finished.clear()
            (tool.button_add_point if step == "click" else tool.button_remove_point).click()
            where = at(*rest)
            QTest.mouseMove(canvas, where)
            QTest.mouseClick(canvas, QtCore.Qt.MouseButton.LeftButton, pos=where)
            until(lambda: finished)
            QTest.qWait(200)  # the window draws what came
        elif step == "find":
            finished.clear()
            tool.edit_text.setText(rest[0])
            tool.button_send.click()
            until(lambda: finished)
            QTest.qWait(200)
        elif step == "find_all":
            photos = [*Path(told["image"]).parent.glob("*.png")]
            batch.BatchRangeDialog.exec = lambda _: QtWidgets.QDialog.DialogCode.Accepted
            batch.TextInputDialog.get_input_text = lambda _, text=rest[0]: text
            view.import_image_folder(str(Path(told["image"]).parent))
            until(lambda: view.filename is not None)
            view.actions.run_all_images.setEnabled(True)  # as the menu does that shows the tool
            view.actions.run_all_images.trigger()
            until(lambda files=photos: all(file.with_suffix(".json").exists() for file in files))
            until(lambda: not view._batch_processing_active)
        elif step == "draw":
            shape = Shape(label="mine", shape_type="polygon")
            for x, y in ((1, 1), (20, 1), (20, 20)):
                shape.add_point(QtCore.QPointF(x, y))
            shape.close()
            view.load_shapes([*canvas.shapes, shape], replace=True)
        elif step == "picture":
            window.grab().save(rest[0])
        elif step == "ask":
            (folder / rest[0]).touch()
            until((folder / f"{rest[0]}.done").exists)
        shapes = [
            {"label": shape.label, "points": [[point.x(), point.y()] for point in shape.points]}
            for shape in canvas.shapes
            if shape.shape_type == "polygon"
        ]
        write({"shapes": shapes, "marks": manager.loaded_model_config["model"].marks})
    os._exit(0)  # the tool's threads and dialogs are none of ours


main()
